package qemu

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bield/internal/hypervisor"
	"bield/internal/hypervisor/hypervisortest"
)

const vmm = 54341

func machine(t *testing.T, name string) hypervisor.Machine {
	t.Helper()
	needRoot(t)
	dir := hypervisortest.PublicDir(t)
	return hypervisor.Machine{
		Name: name, VCPU: 1, MemoryMiB: 64, Kernel: filepath.Join(dir, "kernel"), Initrd: filepath.Join(dir, "initrd"),
		Dir: dir, UID: vmm, GID: vmm, Log: filepath.Join(dir, "qemu.log"),
	}
}

// fakeDriver runs this test binary as QEMU.
func fakeDriver(t *testing.T) *Driver {
	t.Helper()
	path := filepath.Join(hypervisortest.PublicDir(t), "qemu")
	if err := hypervisortest.BringSelf(path); err != nil {
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
	if err := os.Mkdir(m.Dir, 0o711); err != nil {
		t.Fatal(err)
	}
	if _, err := fakeDriver(t).Start(t.Context(), m); err == nil || !strings.Contains(err.Error(), "BIELD_RUN_DIR") {
		t.Errorf("error %v", err)
	}
}
