package hypervisortest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"bield/internal/hypervisor"
	"bield/internal/process"
)

// startsTwice: a second VMM is refused, whatever the daemon has forgotten, and the
// first one is as reachable as before. So it is while the first hangs.
func (t *trial) startsTwice() {
	m := t.machine()
	vm := t.start(m)
	t.refuses(m)
	t.goesOn(vm)
	t.stop(vm)
	t.refuses(m)
	t.signal(vm.ID(), syscall.SIGCONT)
	t.goesOn(vm)
	ctx, cancel := t.context()
	defer cancel()
	if err := errors.Join(vm.Pause(ctx), vm.Resume(ctx)); err != nil {
		t.Errorf("the first VM after a second start: %v", err)
	}
}

// refuses holds the driver, as another daemon has it, not to start a machine that
// runs.
func (t *trial) refuses(m hypervisor.Machine) {
	ctx, cancel := t.context()
	defer cancel()
	second, err := t.subject.New().Start(ctx, m)
	if err == nil {
		t.cleanUp(second)
		t.Fatalf("a second VMM was started in the same run folder")
	}
	if !errors.Is(err, hypervisor.ErrInUse) {
		t.Errorf("the second start: %v", err)
	}
}

// startsAtOnce: of two starts at once one is refused.
func (t *trial) startsAtOnce() {
	m := t.machine()
	type result struct {
		vm  hypervisor.VM
		err error
	}
	results := make(chan result)
	ctx, cancel := t.context()
	defer cancel()
	for range 2 {
		go func() {
			vm, err := t.driver.Start(ctx, m)
			results <- result{vm, err}
		}()
	}
	var running []hypervisor.VM
	for range 2 {
		r := <-results
		if r.err == nil {
			running = append(running, r.vm)
			t.cleanUp(r.vm)
		} else if !errors.Is(r.err, hypervisor.ErrInUse) {
			t.Errorf("of two starts at once: %v", r.err)
		}
	}
	if len(running) != 1 {
		t.Fatalf("of two starts at once %d run", len(running))
	}
	t.goesOn(running[0])
}

// startFails: the error has the machine's name and the VMM's own words, and nothing
// is left.
func (t *trial) startFails() {
	for what, spoil := range map[string]func(*hypervisor.Machine){
		"kernel":    func(m *hypervisor.Machine) { m.Kernel = filepath.Join(m.Dir, "none") },
		"initramfs": func(m *hypervisor.Machine) { m.Initrd = filepath.Join(m.Dir, "none") },
		"disk":      func(m *hypervisor.Machine) { m.RootDisk = filepath.Join(m.Dir, "none") },
		"share": func(m *hypervisor.Machine) {
			m.Shares = []hypervisor.Share{{Tag: "spare", Socket: filepath.Join(m.Dir, "none")}}
		},
	} {
		m := t.machine()
		spoil(&m)
		var noted process.ID
		m.Note = func(id process.ID) error { noted = id; return nil }
		ctx, cancel := t.context()
		vm, err := t.driver.Start(ctx, m)
		cancel()
		if err == nil {
			_ = vm.Kill(context.WithoutCancel(ctx))
			t.Errorf("without its %s it starts", what)
			continue
		}
		if !strings.Contains(err.Error(), m.Name) || strings.Contains(err.Error(), "it said nothing") {
			t.Errorf("without its %s: %v", what, err)
		}
		t.gone(noted)
		t.empty(m)
	}
}

// startHangs: a VMM that stands still before it runs the machine costs no more than
// the caller's patience. It waits for the writer of a pipe that passes for its
// kernel.
func (t *trial) startHangs() {
	m := t.machine()
	m.Kernel = filepath.Join(filepath.Dir(m.Kernel), "pipe")
	if err := errors.Join(unix.Mkfifo(m.Kernel, 0o644), os.Chmod(m.Kernel, 0o644)); err != nil {
		t.Fatal(err)
	}
	noted := make(chan process.ID, 1)
	m.Note = func(id process.ID) error { noted <- id; return nil }
	t.Cleanup(func() { // a driver that waits on is released
		select {
		case id := <-noted:
			if p, err := process.Adopt(id); err == nil {
				_ = p.Kill()
			}
		default:
		}
	})
	err := t.within("Start", time.Second, func(ctx context.Context) error {
		vm, err := t.driver.Start(ctx, m)
		if err == nil {
			t.cleanUp(vm)
		}
		return err
	})
	if err == nil {
		t.Fatalf("a VMM that has no kernel yet passes for running")
	}
	select {
	case id := <-noted:
		t.gone(id)
	default: // too slow a machine to begin with
	}
	t.empty(m)
}

// staleFiles: what a VMM has left that was killed together with its daemon is in
// nobody's way.
func (t *trial) staleFiles() {
	m := t.machine()
	vm := t.start(m)
	t.signal(vm.ID(), syscall.SIGKILL)
	_ = t.ends(vm)
	vm.Close()
	if len(t.files(m)) == 0 {
		t.Fatalf("the killed VMM has left nothing: this case shows nothing")
	}
	again := t.start(m)
	t.goesOn(again)
	t.kill(again)
	t.empty(m)
}

// adopts: a VM outlives its daemon. The next one speaks to the guest and ends it.
func (t *trial) adopts() {
	m := t.machine()
	vm := t.start(m)
	t.goesOn(vm)
	vm.Close()
	for range 2 {
		next := t.adopt(m, vm.ID())
		if next.ID() != vm.ID() {
			t.Errorf("%+v was adopted as %+v", vm.ID(), next.ID())
		}
		t.goesOn(next)
		ctx, cancel := t.context()
		if err := errors.Join(next.Pause(ctx), next.Resume(ctx)); err != nil {
			t.Errorf("an adopted VM: %v", err)
		}
		cancel()
		next.Close()
	}
	last := t.adopt(m, vm.ID())
	t.kill(last)
	t.gone(vm.ID())
	t.empty(m)
	select {
	case <-vm.Done():
		t.Errorf("a VM that was let go of tells of its end")
	default:
	}
}

// endsAdopted: why an adopted VM has ended is known as far as it tells itself.
func (t *trial) endsAdopted() {
	for what, test := range map[string]struct {
		end  func(hypervisor.VM)
		fits func(error) bool
	}{
		"powers off": {
			func(vm hypervisor.VM) { t.types(t.serial(vm), t.subject.Guest.PowerOff) },
			func(err error) bool { return err == nil },
		},
		"resets": {
			func(vm hypervisor.VM) { t.types(t.serial(vm), t.subject.Guest.Reset) },
			func(err error) bool { return err != nil && strings.Contains(err.Error(), "reset") },
		},
		"is killed": {
			func(vm hypervisor.VM) { t.signal(vm.ID(), syscall.SIGKILL) },
			func(err error) bool { return err != nil },
		},
	} {
		m := t.machine()
		vm := t.start(m)
		vm.Close()
		next := t.adopt(m, vm.ID())
		t.goesOn(next)
		test.end(next)
		if cause := t.ends(next); !test.fits(cause) {
			t.Errorf("one that was adopted %s, and: %v", what, cause)
		}
	}
}

// adoptsTooLate: one that has ended meanwhile can't be adopted, nor can another
// process that has its number now.
func (t *trial) adoptsTooLate() {
	m := t.machine()
	vm := t.start(m)
	id := vm.ID()
	other := id
	other.StartTime++
	t.signal(id, syscall.SIGKILL)
	_ = t.ends(vm)
	for what, id := range map[string]process.ID{"an ended VMM": id, "another process": {PID: os.Getpid(), StartTime: 1, BootID: id.BootID}, "a later process": other} {
		ctx, cancel := t.context()
		found, err := t.subject.New().Adopt(ctx, m.Dir, id)
		cancel()
		if err == nil && found != nil {
			found.Close()
		}
		if !errors.Is(err, process.ErrGone) {
			t.Errorf("adopt %s: %v", what, err)
		}
	}
}
