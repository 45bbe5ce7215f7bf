package preflight

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"bield/internal/process"
)

// The oldest kernel that will do: PIDFD_NONBLOCK came with 5.10.
const oldestMajor, oldestMinor = 5, 10

func (h Host) release() (string, error) {
	text, err := os.ReadFile(h.path("proc/sys/kernel/osrelease"))
	return strings.TrimSpace(string(text)), err
}

func (h Host) kernel() Result {
	release, err := h.release()
	if err != nil {
		return warn(err.Error(), "mount /proc")
	}
	return judgeKernel(release, runtime.GOARCH)
}

func judgeKernel(release, arch string) Result {
	major, minor, known := kernelVersion(release)
	switch {
	case arch != "amd64" && arch != "arm64":
		return fail("Linux "+release+" on "+arch+": bield runs on amd64 and arm64 only", "use a machine with such a CPU")
	case !known:
		return warn("Linux " + release + ": what version is that?")
	case major < oldestMajor || major == oldestMajor && minor < oldestMinor:
		return fail(fmt.Sprintf("Linux %s: bield needs %d.%d or newer", release, oldestMajor, oldestMinor), "upgrade the kernel and reboot")
	}
	if arch == "arm64" {
		return warn("Linux " + release + " on arm64: bield has not been tested on such a machine as a whole")
	}
	return ok("Linux %s", release)
}

// kernelVersion reads the first two numbers of "6.1.0-37-cloud-amd64".
func kernelVersion(release string) (major, minor int, known bool) {
	first, rest, _ := strings.Cut(release, ".")
	second := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	major, err1 := strconv.Atoi(first)
	minor, err2 := strconv.Atoi(second)
	return major, minor, err1 == nil && err2 == nil
}

// calls is what the kernel lets this process do. An error is why not.
type calls struct {
	pidfd, memfd error
	// notify says that seccomp can hand system calls to another process.
	notify error
}

func (h Host) systemCalls() Result {
	return judgeCalls(tryCalls(h.path("proc/sys/kernel/seccomp/actions_avail")))
}

func tryCalls(actions string) calls {
	var c calls
	fd, err := unix.PidfdOpen(os.Getpid(), unix.PIDFD_NONBLOCK)
	if c.pidfd = err; err == nil {
		unix.Close(fd)
	}
	fd, err = unix.MemfdCreate("bield-doctor", unix.MFD_CLOEXEC)
	if c.memfd = err; err == nil {
		unix.Close(fd)
	}
	text, err := os.ReadFile(actions)
	if c.notify = err; err == nil && !strings.Contains(string(text), "user_notif") {
		c.notify = errors.New("not among the kernel's seccomp actions")
	}
	return c
}

func judgeCalls(c calls) Result {
	const advice = "use a kernel and, in a container, a seccomp profile that have them"
	var lacks []string
	for _, need := range []struct {
		name string
		err  error
	}{{"pidfd_open (bieldd watches processes by it)", c.pidfd}, {"memfd_create (QEMU keeps guest memory in one)", c.memfd}} {
		if need.err != nil {
			lacks = append(lacks, fmt.Sprintf("%s: %v", need.name, need.err))
		}
	}
	switch {
	case lacks != nil:
		return fail("the kernel refuses "+strings.Join(lacks, "; "), advice)
	case c.notify != nil:
		return warn(fmt.Sprintf("pidfd, memfd; no seccomp user notification (%v): shares can't do without many open files", c.notify), advice)
	}
	return ok("pidfd, memfd, seccomp user notification")
}

// landlockSince says what of Landlock came with which version (landlock(7)).
func landlockSince() []struct {
	version int
	what    string
} {
	return []struct {
		version int
		what    string
	}{{1, "files"}, {3, "truncation"}, {4, "TCP"}, {5, "devices' ioctls"}, {6, "signals and abstract sockets"}}
}

func (h Host) landlock() Result { return judgeLandlock(process.LandlockVersion()) }

func judgeLandlock(version int) Result {
	if version <= 0 {
		return warn("the kernel has none, or it is turned off: a VMM that was broken out of reads what any user of this host may",
			"use a kernel with CONFIG_SECURITY_LANDLOCK, and landlock in the list of the kernel parameter lsm= (cat /sys/kernel/security/lsm)",
			"in a container, allow landlock_create_ruleset, landlock_add_rule and landlock_restrict_self")
	}
	var has, lacks []string
	for _, part := range landlockSince() {
		if version >= part.version {
			has = append(has, part.what)
		} else {
			lacks = append(lacks, part.what)
		}
	}
	if lacks == nil {
		return ok("version %d: %s", version, strings.Join(has, ", "))
	}
	return ok("version %d: %s; newer kernels also bound %s", version, strings.Join(has, ", "), strings.Join(lacks, ", "))
}

// Cgroups is what there is of control groups to limit VMs by.
type Cgroups struct {
	// Found says which and where, Lacks what can't be limited.
	Found string
	Lacks []string
	// Err is why there are none to use.
	Err error
}

func (h Host) cgroups() Result {
	c := h.Cgroups()
	switch {
	case c.Err != nil:
		return warn(fmt.Sprintf("%v: VMs run without limits of memory, processes and processors beyond their own", c.Err),
			"mount them: mount -t cgroup2 none /sys/fs/cgroup (systemd does)",
			"in a container, let it write to its control groups: docker run --privileged --cgroupns=private, or a virtual machine")
	case len(c.Lacks) > 0:
		return warn(fmt.Sprintf("%s; no limits of %s", c.Found, strings.Join(c.Lacks, ", ")),
			"turn on the controllers: see cgroup_disable= and cgroup_enable= on the kernel's command line (/proc/cmdline)")
	}
	return ok("%s", c.Found)
}
