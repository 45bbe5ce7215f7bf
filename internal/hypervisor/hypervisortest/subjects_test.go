package hypervisortest_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/u-root/u-root/pkg/cpio"
	"golang.org/x/sys/unix"

	"bield/internal/guestconfig"
	"bield/internal/guestlink"
	"bield/internal/hypervisor"
	"bield/internal/hypervisor/cloudhypervisor"
	"bield/internal/hypervisor/hypervisortest"
	"bield/internal/hypervisor/qemu"
	"bield/test/fakes"
)

// vmmUser is what the VMMs run as.
const vmmUser = 54341

// lacking says what every subject needs and this host has not.
func lacking() string {
	if os.Geteuid() != 0 {
		return "needs root: the VMM runs as another user"
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return "there is no /dev/net/tun"
	}
	return ""
}

func firstOf(reasons ...string) string {
	for _, reason := range reasons {
		if reason != "" {
			return reason
		}
	}
	return ""
}

// realQEMU is QEMU without KVM for an architecture, which runs the suite's own guest.
// The host may be of another, but for x86: its guests' clock is the host's there.
func realQEMU(name, arch string, kernel func() ([]byte, error)) hypervisortest.Subject {
	missing := ""
	if _, err := qemu.NewFor("", arch, false).Find(); err != nil {
		missing = err.Error()
	} else if arch == "amd64" && runtime.GOARCH != arch {
		missing = "a guest's clock of x86 is the host's, which has none"
	}
	return hypervisortest.Subject{
		Name: name, Missing: firstOf(lacking(), missing),
		New:     func() hypervisor.Driver { return qemu.NewFor("", arch, false) },
		Machine: kernelMachines(kernel),
		Guest:   hypervisortest.KernelGuest(), Patience: 30 * time.Second,
		Cannot: map[string]string{"half answers": wholeAnswers},
	}
}

const wholeAnswers = "a real program gives whole answers"

func kernelX86(b hypervisortest.Board) func() ([]byte, error) {
	return func() ([]byte, error) { return hypervisortest.Kernel(b) }
}

// kernelMachines makes machines with the suite's own guest.
func kernelMachines(kernel func() ([]byte, error)) func(testing.TB, hypervisortest.Fault) hypervisor.Machine {
	return func(t testing.TB, _ hypervisortest.Fault) hypervisor.Machine {
		text, err := kernel()
		if err != nil {
			t.Fatal(err)
		}
		m := emptyMachine(t, "echo", text)
		if err := os.WriteFile(m.Initrd, make([]byte, 512), 0o644); err != nil {
			t.Fatal(err)
		}
		return m
	}
}

// emptyMachine is one without an initramfs. Its files lie where every user can
// reach them.
func emptyMachine(t testing.TB, name string, kernel []byte) hypervisor.Machine {
	dir := hypervisortest.PublicDir(t)
	m := hypervisor.Machine{
		Name: name, VCPU: 1, MemoryMiB: 64, Kernel: filepath.Join(dir, "kernel"), Initrd: filepath.Join(dir, "initrd"),
		Taps: []hypervisor.Tap{{Queues: []*os.File{openTap(t)}, MAC: "02:00:00:01:b8:4b"}},
		Dir:  filepath.Join(dir, name), UID: vmmUser, GID: vmmUser, Log: filepath.Join(dir, "vmm.log"),
	}
	m.RootDisk = filepath.Join(dir, "disk")
	err := errors.Join(os.Mkdir(m.Dir, 0o711), os.WriteFile(m.Kernel, kernel, 0o644),
		os.WriteFile(m.RootDisk, make([]byte, 4096), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// fakeQEMU is the fake of the CLI's scripts.
func fakeQEMU(dir string) hypervisortest.Subject {
	return hypervisortest.Subject{
		Name: "fake QEMU", Missing: lacking(),
		New: func() hypervisor.Driver {
			d := qemu.New(filepath.Join(dir, "qemu-system-x86_64"), false)
			d.Writes = []string{filepath.Join(dir, "net")}
			return d
		},
		Machine: func(t testing.TB, f hypervisortest.Fault) hypervisor.Machine {
			return fakeMachine(t, f, guestconfig.Link{})
		},
		Guest: fakeGuest(), Link: speaksLink, Patience: 15 * time.Second,
		Cannot: map[string]string{"seccomp": "the fake has no filter"},
	}
}

// fakeCloudHypervisor is the fake of the CLI's scripts as a version.
func fakeCloudHypervisor(dir, version string) hypervisortest.Subject {
	return hypervisortest.Subject{
		Name: "fake cloud-hypervisor " + version, Missing: lacking(),
		New: func() hypervisor.Driver { return cloudhypervisor.New(filepath.Join(dir, "cloud-hypervisor")) },
		Machine: func(t testing.TB, f hypervisortest.Fault) hypervisor.Machine {
			return fakeMachine(t, f, guestconfig.Link{VsockPort: guestconfig.LinkVsockPort})
		},
		Guest: fakeGuest(), Link: speaksLink, Patience: 15 * time.Second,
		Cannot: map[string]string{"seccomp": "the fake has no filter"},
	}
}

// fakeGuest is the guest of package fakes.
func fakeGuest() hypervisortest.Guest {
	return hypervisortest.Guest{Greeting: "Linux version ", PowerOff: "\rpoweroff\r", Reset: "\rpanic\r", Spin: "\rspin\r"}
}

// fakeMachine is one for a fake, whose guest has its configuration in the initramfs
// and a root disk. The fault is its name: see installFakes.
func fakeMachine(t testing.TB, f hypervisortest.Fault, link guestconfig.Link) hypervisor.Machine {
	name := "works"
	if f == hypervisortest.HalfAnswers {
		name = "half"
	}
	m := emptyMachine(t, name, []byte("no kernel"))
	config, err := json.Marshal(guestconfig.Config{
		Version: guestconfig.Version, Hostname: name, Root: guestconfig.Root{Disk: "/dev/vda"}, Link: link,
	})
	if err != nil {
		t.Fatal(err)
	}
	initrd, err := os.OpenFile(m.Initrd, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer initrd.Close()
	archive := cpio.Newc.Writer(initrd)
	record := cpio.StaticFile(guestconfig.Path[1:], string(config), 0o644)
	if err := errors.Join(archive.WriteRecord(record), cpio.WriteTrailer(archive)); err != nil {
		t.Fatal(err)
	}
	return m
}

// installFakes makes a folder of programs, and their plan.
func installFakes(t *testing.T, version string) string {
	dir := hypervisortest.PublicDir(t)
	for name := range fakes.Programs() {
		if err := hypervisortest.BringSelf(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	half := map[string]fakes.APIFault{"vm.pause": fakes.APIHalf, "vm.resume": fakes.APIHalf}
	plan, err := json.Marshal(fakes.Plan{
		CloudHypervisor: version,
		VMs:             map[string]fakes.Guest{"half": {HalfAnswers: true, VMM: fakes.VMMFaults{API: half}}},
	})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "plan.json"), plan, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// speaksLink is the handshake with the guest's bield-init.
func speaksLink(ctx context.Context, conn net.Conn) error {
	s, err := guestlink.Dial(ctx, conn)
	if err != nil {
		return err
	}
	return s.Close()
}

// openTap makes a tap in a network namespace that ends with its thread.
func openTap(t testing.TB) *os.File {
	type result struct {
		file *os.File
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked
		file, err := tapOfThread()
		done <- result{file, err}
	}()
	r := <-done
	if r.err != nil {
		t.Fatal("no tap: " + r.err.Error())
	}
	t.Cleanup(func() { r.file.Close() })
	return r.file
}

func tapOfThread() (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	file, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq("tap0")
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(int(file.Fd()), unix.TUNSETIFF, request)
	}
	return file, err
}
