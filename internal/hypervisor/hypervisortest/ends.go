package hypervisortest

import (
	"strings"
	"syscall"
)

// pressesButton: the guest hears of its power button and powers off by itself.
func (t *trial) pressesButton() {
	vm := t.start(t.machine())
	t.goesOn(vm)
	ctx, cancel := t.context()
	defer cancel()
	if err := vm.PowerButton(ctx); err != nil {
		t.Fatal(err)
	}
	if cause := t.ends(vm); cause != nil {
		t.Errorf("after the power button it has ended: %v", cause)
	}
}

// kills: a guest that answers nobody is gone at once, with all of the driver's files.
// Once more is no error.
func (t *trial) kills() {
	m := t.machine()
	vm := t.start(m)
	if len(t.files(m)) == 0 {
		t.Errorf("the driver has no file in the run folder")
	}
	t.types(t.serial(vm), t.subject.Guest.Spin)
	t.kill(vm)
	if cause := vm.Cause(); cause == nil {
		t.Errorf("killed, and it passes for the guest's own power-off")
	}
	t.gone(vm.ID())
	t.empty(m)
	t.kill(vm)
}

// guestPowersOff: the guest's own end has no cause, also after the cleaning up.
func (t *trial) guestPowersOff() {
	m := t.machine()
	vm := t.start(m)
	t.types(t.serial(vm), t.subject.Guest.PowerOff)
	if cause := t.ends(vm); cause != nil {
		t.Errorf("the guest has powered off, and: %v", cause)
	}
	t.kill(vm)
	if cause := vm.Cause(); cause != nil {
		t.Errorf("the guest has powered off, and once cleaned up: %v", cause)
	}
	t.empty(m)
}

// guestResets: a reset ends the machine and is named. It isn't booted anew.
func (t *trial) guestResets() {
	vm := t.start(t.machine())
	t.types(t.serial(vm), t.subject.Guest.Reset)
	if cause := t.ends(vm); cause == nil || !strings.Contains(cause.Error(), "reset") {
		t.Errorf("the guest has reset its machine, and: %v", cause)
	}
	t.gone(vm.ID())
}

// vmmKilled: somebody kills the VMM.
func (t *trial) vmmKilled() {
	vm := t.start(t.machine())
	t.signal(vm.ID(), syscall.SIGKILL)
	if cause := t.ends(vm); cause == nil || !strings.Contains(cause.Error(), "SIGKILL") {
		t.Errorf("the VMM was killed by SIGKILL, and: %v", cause)
	}
}
