package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bield/internal/hypervisor"
	"bield/internal/process"
)

const vmm = 54341

func machine(t *testing.T, name string) hypervisor.Machine {
	t.Helper()
	needRoot(t)
	dir := publicDir(t)
	return hypervisor.Machine{
		Name: name, VCPU: 1, MemoryMiB: 64, Kernel: filepath.Join(dir, "kernel"), Initrd: filepath.Join(dir, "initrd"),
		Dir: dir, UID: vmm, GID: vmm, Log: filepath.Join(dir, "qemu.log"),
	}
}

// fakeDriver runs this test binary as QEMU.
func fakeDriver(t *testing.T) *Driver {
	t.Helper()
	path := filepath.Join(publicDir(t), "qemu")
	if err := bringSelf(path); err != nil {
		t.Fatal(err)
	}
	return New(path, false)
}

func start(t *testing.T, d *Driver, m hypervisor.Machine) hypervisor.VM {
	t.Helper()
	vm, err := d.Start(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = vm.Kill(context.Background()) })
	return vm
}

// waitEnd returns why the VM ended.
func waitEnd(t *testing.T, vm hypervisor.VM) error {
	t.Helper()
	select {
	case <-vm.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the VMM goes on")
	}
	return vm.Cause()
}

// socketsLeft lists what is left of the driver's sockets.
func socketsLeft(t *testing.T, dir string) []string {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, "*.sock"))
	if err != nil {
		t.Fatal(err)
	}
	return left
}

func TestStartAndPowerButton(t *testing.T) {
	m := machine(t, "works")
	vm := start(t, fakeDriver(t), m)
	for _, path := range socketsLeft(t, m.Dir) {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil || st.Mode != unix.S_IFSOCK|0o600 || st.Uid != 0 {
			t.Errorf("%s: mode %o, owner %d, %v", path, st.Mode, st.Uid, err)
		}
	}
	if err := vm.PowerButton(t.Context()); err == nil {
		t.Error("the fake ends without an answer, and no error")
	}
	if cause := waitEnd(t, vm); cause == nil || !strings.Contains(cause.Error(), "exit status 3") {
		t.Errorf("ended: %v", cause)
	}
	if err := vm.Kill(t.Context()); err != nil || len(socketsLeft(t, m.Dir)) != 0 {
		t.Errorf("%v, left %v", err, socketsLeft(t, m.Dir))
	}
}

func TestPowerButtonRefused(t *testing.T) {
	vm := start(t, fakeDriver(t), machine(t, "refuses"))
	if err := vm.PowerButton(t.Context()); err == nil || !strings.Contains(err.Error(), "press the power button: system_powerdown: QEMU: no button") {
		t.Errorf("error %v", err)
	}
}

func TestStartErrors(t *testing.T) {
	missing := New("qemu-that-is-nowhere", false)
	for _, test := range []struct {
		name, want string
		driver     *Driver
		timeout    time.Duration
	}{
		{"absent", "bield setup", missing, time.Minute},
		{"dies", "could not load kernel '/nowhere': Failed", nil, time.Minute},
		{"silent", "no patience", nil, 500 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := machine(t, test.name)
			d := test.driver
			if d == nil {
				d = fakeDriver(t)
			}
			ctx, cancel := context.WithTimeoutCause(t.Context(), test.timeout, errors.New("no patience"))
			defer cancel()
			vm, err := d.Start(ctx, m)
			if err == nil {
				_ = vm.Kill(t.Context())
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "start QEMU for "+test.name) {
				t.Errorf("error %q, want %q in it", err, test.want)
			}
			if left := socketsLeft(t, m.Dir); len(left) != 0 {
				t.Errorf("left %v", left)
			}
		})
	}
}

func TestLongPath(t *testing.T) {
	m := machine(t, "works")
	m.Dir = filepath.Join(m.Dir, strings.Repeat("x", 100))
	if _, err := fakeDriver(t).Start(t.Context(), m); err == nil || !strings.Contains(err.Error(), "BIELD_RUN_DIR") {
		t.Errorf("error %v", err)
	}
}

func TestAdopt(t *testing.T) {
	d, m := fakeDriver(t), machine(t, "works")
	vm := start(t, d, m)
	again, err := d.Adopt(t.Context(), m.Dir, vm.ID())
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if again, err = d.Adopt(t.Context(), m.Dir, vm.ID()); err != nil {
		t.Fatal(err)
	}
	if err := again.Kill(t.Context()); err != nil {
		t.Error(err)
	}
	if cause := waitEnd(t, vm); cause == nil || !strings.Contains(cause.Error(), "SIGKILL") {
		t.Errorf("ended: %v", cause)
	}
	if cause := again.Cause(); cause == nil || !strings.Contains(cause.Error(), "no daemon saw how") {
		t.Errorf("adopted, ended: %v", cause)
	}
	if _, err := d.Adopt(t.Context(), m.Dir, vm.ID()); !errors.Is(err, process.ErrGone) {
		t.Errorf("adopt an ended VM: %v", err)
	}
}

// openTap makes a tap in a network namespace that ends with its thread.
func openTap(t *testing.T) *os.File {
	t.Helper()
	type result struct {
		file *os.File
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err != nil {
			done <- result{nil, err}
			return
		}
		file, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
		if err == nil {
			var request *unix.Ifreq
			if request, err = unix.NewIfreq("tap0"); err == nil {
				request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
				err = unix.IoctlIfreq(int(file.Fd()), unix.TUNSETIFF, request)
			}
		}
		done <- result{file, err}
	}()
	r := <-done
	if r.err != nil {
		skip(t, "no tap: "+r.err.Error())
	}
	t.Cleanup(func() { r.file.Close() })
	return r.file
}

func expect(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Fatalf("%q from the guest, %v, want %q", got, err, want)
	}
}

// TestRealQEMU runs machines of both architectures, whatever this host's is.
func TestRealQEMU(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) { echoes(t, arch) })
	}
}

func echoes(t *testing.T, arch string) {
	d, m := realDriver(t, arch), machine(t, "echo")
	echoKernel(t, m, arch)
	m.RootDisk = m.Initrd
	m.Taps = []hypervisor.Tap{{Queues: []*os.File{openTap(t)}, MAC: "02:00:00:01:b8:4b"}}
	vm := start(t, d, m)
	checkConfined(t, vm.ID().PID)
	for i := range 3 { // a restarted daemon connects anew
		serial, err := vm.Serial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("hello %d", i)
		if _, err := io.WriteString(serial, text); err != nil {
			t.Fatal(err)
		}
		expect(t, serial, text)
		serial.Close()
		link, err := vm.Link(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		link.Close()
		if err := vm.PowerButton(t.Context()); err != nil {
			t.Error(err)
		}
	}
	serial, err := vm.Serial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer serial.Close()
	if _, err := io.WriteString(serial, "q"); err != nil {
		t.Fatal(err)
	}
	if cause := waitEnd(t, vm); cause == nil || !strings.Contains(cause.Error(), "reset") {
		t.Errorf("after a reset: %v: %q", cause, process.TailLog(m.Log, 5))
	}
}

// checkConfined checks who QEMU is.
func checkConfined(t *testing.T, pid int) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(tasks) == 0 {
		t.Fatal(tasks, err)
	}
	for _, path := range tasks {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			fmt.Sprintf("Uid:\t%d\t%[1]d\t%[1]d\t%[1]d\n", vmm), fmt.Sprintf("Gid:\t%d\t%[1]d\t%[1]d\t%[1]d\n", vmm), "Groups:\t \n",
			"CapPrm:\t0000000000000000\n", "CapBnd:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n",
		} {
			if !strings.Contains(string(text), want) {
				t.Errorf("%q is not in %s:\n%s", want, path, text)
			}
		}
	}
	host, _ := os.Readlink("/proc/self/ns/net")
	if own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid)); err != nil || own == host {
		t.Errorf("network namespace %s, %v", own, err)
	}
}

func TestRealQEMUErrors(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*hypervisor.Machine)
		want   string
	}{
		"no kernel": {func(m *hypervisor.Machine) { m.Kernel = "/nowhere/vmlinux" }, "/nowhere/vmlinux"},
		"no initrd": {func(m *hypervisor.Machine) { _ = os.Remove(m.Initrd) }, "initrd"},
		"no share": {func(m *hypervisor.Machine) {
			m.Shares = []hypervisor.Share{{Tag: "x", Socket: m.Dir + "/none"}}
		}, "none"},
		"no disk": {func(m *hypervisor.Machine) { m.RootDisk = "/nowhere/root.erofs" }, "/nowhere/root.erofs"},
	} {
		t.Run(name, func(t *testing.T) {
			d, m := realDriver(t, "amd64"), machine(t, "broken")
			echoKernel(t, m, "amd64")
			test.change(&m)
			vm, err := d.Start(t.Context(), m)
			if err == nil {
				_ = vm.Kill(t.Context())
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q, want %q in it", err, test.want)
			}
		})
	}
}
