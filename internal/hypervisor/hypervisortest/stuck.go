package hypervisortest

import (
	"context"
	"syscall"
	"time"
)

// callerPatience is a caller's whose VMM stands still.
const callerPatience = 300 * time.Millisecond

// vmmHangs: no call waits longer than it may, none that needs an answer succeeds
// without one, and Kill works.
func (t *trial) vmmHangs() {
	m := t.machine()
	vm := t.start(m)
	t.goesOn(vm)
	t.stop(vm)
	for name, call := range map[string]func(context.Context) error{
		"Pause": vm.Pause, "Resume": vm.Resume, "PowerButton": vm.PowerButton,
	} {
		if err := t.within(name, callerPatience, call); err == nil {
			t.Errorf("%s succeeds without an answer", name)
		}
	}
	_ = t.within("Serial", callerPatience, connecting(vm.Serial))
	_ = t.within("Link", callerPatience, connecting(vm.Link))
	_ = t.within("Adopt", callerPatience, func(ctx context.Context) error {
		next, err := t.subject.New().Adopt(ctx, m.Dir, vm.ID())
		if err == nil {
			next.Close()
		}
		return err
	})
	if err := t.within("Kill", t.subject.Patience, vm.Kill); err != nil {
		t.Errorf("kill a VMM that hangs: %v", err)
	}
	t.gone(vm.ID())
	t.empty(m)
}

// slowAnswers: an answer that takes its time is waited for.
func (t *trial) slowAnswers() {
	vm := t.start(t.machine())
	ctx, cancel := t.context()
	defer cancel()
	for _, call := range []func(context.Context) error{vm.Pause, vm.Resume} {
		t.stop(vm)
		done := make(chan error, 1)
		go func() { done <- call(ctx) }()
		select {
		case err := <-done:
			t.Errorf("without an answer: %v", err)
			done <- nil
		case <-time.After(pause):
		}
		t.signal(vm.ID(), syscall.SIGCONT)
		if err := <-done; err != nil {
			t.Errorf("with a late answer: %v", err)
		}
	}
	t.goesOn(vm)
}

// halfAnswers: an answer that breaks off is an error, soon, and the VM goes on.
func (t *trial) halfAnswers() {
	m := t.subject.Machine(t, HalfAnswers)
	vm := t.start(m)
	for _, call := range []struct {
		name string
		ask  func(context.Context) error
	}{{"Pause", vm.Pause}, {"Resume", vm.Resume}} {
		if err := t.within(call.name, t.subject.Patience, call.ask); err == nil {
			t.Errorf("%s takes half an answer for a whole one", call.name)
		}
	}
	t.goesOn(vm)
	t.kill(vm)
	t.empty(m)
}

// connecting is a call that makes a connection, which is not used.
func connecting[C interface{ Close() error }](connect func(context.Context) (C, error)) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := connect(ctx)
		if err == nil {
			_ = conn.Close()
		}
		return err
	}
}
