package cloudhypervisor

import (
	"fmt"
	"strings"

	"bield/internal/hypervisor"
)

// Descriptors that the VMM inherits.
const (
	apiFD    = 3
	eventsFD = 4
	firstTap = 5
)

// guestCID is the guest's vsock address: each VM has a socket of its own, so all
// may have the same. 0 to 2 are the hypervisor's, its loopback and the host.
const guestCID = 3

// arguments is the command line without the program's name, for versions
// minMajor and newer. It fails for what can't be said there.
func arguments(m hypervisor.Machine, arch string) ([]string, error) {
	f := files{m.Dir}
	var list lists
	args := []string{
		"--api-socket", fmt.Sprintf("fd=%d", apiFD),
		"--event-monitor", fmt.Sprintf("fd=%d", eventsFD),
		"--kernel", m.Kernel, "--initramfs", m.Initrd, "--cmdline", commandLine(m, arch),
		"--cpus", cpus(m, arch),
		"--memory", fmt.Sprintf("size=%dM,shared=on", m.MemoryMiB),
		"--balloon", "size=0,deflate_on_oom=on,free_page_reporting=on",
		"--serial", list.of("socket", f.serial()), "--console", "off",
		"--vsock", list.of("cid", fmt.Sprint(guestCID), "socket", f.link()),
		"--watchdog",
		"--seccomp", "true",
		"--landlock", "--landlock-rules", list.of("path", f.vmm(), "access", "rw"),
	}
	args = append(args, nets(m.Taps, &list)...)
	args = append(args, shares(m.Shares, &list)...)
	if m.RootDisk != "" {
		args = append(args, "--disk", list.of("path", m.RootDisk, "readonly", "on", "image_type", "raw"))
	}
	return args, list.err
}

// cpus leaves virtualization within the guest out, which an x86 host may offer.
func cpus(m hypervisor.Machine, arch string) string {
	if arch == "amd64" {
		return fmt.Sprintf("boot=%d,nested=off", m.VCPU)
	}
	return fmt.Sprintf("boot=%d", m.VCPU)
}

// nets hands over the queues of each tap as descriptors; the guest has a receiving
// and a sending one for each.
func nets(taps []hypervisor.Tap, list *lists) []string {
	var args []string
	fd := firstTap
	for _, tap := range taps {
		var fds []string
		for range tap.Queues {
			fds = append(fds, fmt.Sprint(fd))
			fd++
		}
		numbers := strings.Join(fds, ",")
		if len(fds) > 1 {
			numbers = "[" + numbers + "]"
		}
		args = append(args, fmt.Sprintf("fd=%s,%s", numbers, list.of("mac", tap.MAC, "num_queues", fmt.Sprint(2*len(fds)))))
	}
	if args == nil {
		return nil
	}
	return append([]string{"--net"}, args...)
}

func shares(shares []hypervisor.Share, list *lists) []string {
	if len(shares) == 0 {
		return nil
	}
	args := []string{"--fs"}
	for _, share := range shares {
		args = append(args, list.of("tag", share.Tag, "socket", share.Socket, "num_queues", "1", "queue_size", "1024"))
	}
	return args
}

// commandLine is the kernel's. A panic resets the machine at once, which the VMM
// tells of.
func commandLine(m hypervisor.Machine, arch string) string {
	words := []string{"console=ttyAMA0", "panic=-1"}
	if arch == "amd64" {
		words = []string{"console=ttyS0", "reboot=t", "panic=-1"}
	}
	if !m.Verbose {
		words = append(words, "quiet")
	}
	return strings.Join(append(words, m.Cmdline...), " ")
}

// lists writes option lists, "key=value,…", and keeps the first error.
type lists struct{ err error }

// of takes keys and values in turn. A value with a comma, a bracket or a space at
// its end must stand in quotes, and no escape for a quote is known
// (option_parser/src/lib.rs).
func (l *lists) of(keysAndValues ...string) string {
	var parts []string
	for i := 0; i < len(keysAndValues); i += 2 {
		key, value := keysAndValues[i], keysAndValues[i+1]
		if strings.ContainsAny(value, "\"\n") && l.err == nil {
			l.err = fmt.Errorf("%s %q: cloud-hypervisor takes no quotes and no line breaks there: use another path", key, value)
		}
		if strings.ContainsAny(value, ",[]") || strings.TrimSpace(value) != value {
			value = `"` + value + `"`
		}
		parts = append(parts, key+"="+value)
	}
	return strings.Join(parts, ",")
}
