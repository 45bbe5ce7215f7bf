package hypervisortest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"bield/internal/hypervisor"
	"bield/internal/hypervisor/cloudhypervisor"
	"bield/internal/hypervisor/hypervisortest"
)

// envCloudHypervisor names the program that the suite is to run for real.
const envCloudHypervisor = "BIELD_CLOUD_HYPERVISOR"

const notNamed = envCloudHypervisor + " names no program"

// realCloudHypervisor runs the suite's own guest, also on a KVM in software.
func realCloudHypervisor() hypervisortest.Subject {
	program, missing := os.Getenv(envCloudHypervisor), ""
	switch {
	case program == "":
		missing = notNamed
	case runtime.GOARCH != "amd64":
		missing = "the suite has no guest for cloud-hypervisor on " + runtime.GOARCH
	}
	return hypervisortest.Subject{
		Name: "cloud-hypervisor", Missing: firstOf(missing, lacking()),
		New:     func() hypervisor.Driver { return openKVM{cloudhypervisor.New(program)} },
		Machine: kernelMachines(kernelX86(hypervisortest.CloudHypervisor())),
		Guest:   hypervisortest.KernelGuest(), Patience: 30 * time.Second,
		Cannot: map[string]string{
			"guest link":   "the guest has no driver for vsock",
			"power button": "the guest does not read ACPI's tables, which say where its button is",
			"half answers": wholeAnswers,
		},
	}
}

// openKVM is a driver whose VMMs may open /dev/kvm, also where that is its owner's
// alone: in a mount namespace of their own stands another in its place.
type openKVM struct{ hypervisor.Driver }

// Start implements hypervisor.Driver.
func (d openKVM) Start(ctx context.Context, m hypervisor.Machine) (hypervisor.VM, error) {
	var st unix.Stat_t
	if err := unix.Stat("/dev/kvm", &st); err != nil {
		return nil, fmt.Errorf("/dev/kvm: %w", err)
	}
	if _, byGroup := hypervisor.KVMGroup(); byGroup || st.Mode&0o006 == 0o006 {
		return d.Driver.Start(ctx, m)
	}
	type result struct {
		vm  hypervisor.VM
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the namespace is this thread's and its children's
		err := replaceKVM(filepath.Dir(m.Kernel), int(st.Rdev))
		if err != nil {
			done <- result{nil, err}
			return
		}
		vm, err := d.Driver.Start(ctx, m)
		done <- result{vm, err}
	}()
	r := <-done
	return r.vm, r.err
}

// replaceKVM puts a device that everybody may open in the place of /dev/kvm, for the
// calling thread.
func replaceKVM(dir string, device int) error {
	folder := filepath.Join(dir, "dev")
	if err := os.Mkdir(folder, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts private: %w", err)
	}
	if err := unix.Mount("none", folder, "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount a folder for devices: %w", err)
	}
	kvm := filepath.Join(folder, "kvm")
	if err := errors.Join(unix.Mknod(kvm, unix.S_IFCHR|0o666, device), unix.Chmod(kvm, 0o666)); err != nil {
		return fmt.Errorf("make %s: %w", kvm, err)
	}
	return unix.Mount(kvm, "/dev/kvm", "", unix.MS_BIND, "")
}
