package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"bield/internal/plan"
	"bield/internal/spec"
)

// undoTimeout bounds the taking back of one VM after its call has ended.
const undoTimeout = time.Minute

// Up brings VMs up, as many at a time as the host has cores, and returns when
// each of them has run a command over SSH. A VM that runs is left as it is; one
// that fails is taken back whole.
func (e *Engine) Up(ctx context.Context, caller Caller, request UpRequest, show func(Progress)) error {
	if err := mayForce(caller, request.Force); err != nil {
		return err
	}
	done, err := e.waitForApply(ctx, request.Origin)
	if err != nil {
		return err
	}
	a, err := e.accept(ctx, caller, request, false)
	done()
	if err != nil {
		return err
	}
	return each(a.turns, func(t *turn) error {
		return e.bring(ctx, caller, t, order{force: request.Force}, show)
	})
}

// StartRequest asks for VMs of the applied spec.
type StartRequest struct {
	// Names of VMs; none means all that the caller may use.
	Names []string
	// Force starts VMs for which the host has not enough.
	Force bool
	// Restart stops those that run first.
	Restart bool
}

// Start is Up without a file: the VMs are those that were applied last.
func (e *Engine) Start(ctx context.Context, caller Caller, request StartRequest, show func(Progress)) error {
	if err := mayForce(caller, request.Force); err != nil {
		return err
	}
	turns, err := e.queueStarts(caller, request.Names)
	if err != nil {
		return err
	}
	return each(turns, func(t *turn) error {
		return e.bring(ctx, caller, t, order{force: request.Force, anew: request.Restart}, show)
	})
}

// queueStarts takes turns for starting VMs, all that the caller may use where
// none is named.
func (e *Engine) queueStarts(caller Caller, names []string) ([]*turn, error) {
	e.acceptMu.Lock() // see startsInTheWay
	defer e.acceptMu.Unlock()
	if len(names) == 0 {
		names = e.declared(caller)
	}
	return e.queueFor(caller, names, func(names []string) []*turn { return e.queueAll(names, true) })
}

// queueFor takes turns at VMs that the caller may use, or none.
func (e *Engine) queueFor(caller Caller, names []string, queue func([]string) []*turn) ([]*turn, error) {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, name := range names {
		if _, err := e.allowed(caller, name); err != nil {
			return nil, err
		}
	}
	return queue(names), nil
}

// mayForce keeps it to root to give VMs what others may need.
func mayForce(caller Caller, force bool) error {
	if force && !caller.Root() {
		return fmt.Errorf("%w: only root may use --force: the memory that is kept free is everybody's", ErrForbidden)
	}
	return nil
}

// declared names the VMs of the applied spec that the caller may use.
func (e *Engine) declared(caller Caller) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var names []string
	for _, vm := range e.applied.Host.VMs {
		if caller.mayUse(vm) {
			names = append(names, vm.Name)
		}
	}
	return names
}

// each works on all at once; errors come in order.
func each[T any](all []T, work func(T) error) error {
	failures := make([]error, len(all))
	var works sync.WaitGroup
	for i, one := range all {
		works.Go(func() { failures[i] = work(one) })
	}
	works.Wait()
	return errors.Join(failures...)
}

// setCancel says how an up under way can be ended by a down.
func (e *Engine) setCancel(m *machine, cancel context.CancelCauseFunc) {
	e.mu.Lock()
	defer e.mu.Unlock()
	m.cancel = cancel
}

// Down stops VMs; no name means all that run and that the caller may use. It
// returns when nothing of them is left.
func (e *Engine) Down(ctx context.Context, caller Caller, names []string, force bool, show func(Progress)) error {
	if len(names) == 0 {
		names = e.usable(caller)
	}
	turns, err := e.queueFor(caller, names, func(names []string) []*turn { return e.queueDown(names, force) })
	if err != nil {
		return err
	}
	return each(turns, func(t *turn) error { return e.down(ctx, caller, t, force, show) })
}

// queueDown takes turns to stop VMs, and ends all starts before. Needs e.mu.
func (e *Engine) queueDown(names []string, force bool) []*turn {
	for _, name := range names {
		m := e.hold(name)
		m.downs++
		m.stopStarts(errStopped)
		m.hurry(force)
	}
	return e.queueAll(names, false)
}

// hurry, with force, does not wait for a guest that is just being asked to power
// off. Needs Engine.mu.
func (m *machine) hurry(force bool) {
	if force && m.run != nil {
		m.run.forceOff()
	}
}

// usable names the VMs that the caller may use and of which something is there
// or about to be.
func (e *Engine) usable(caller Caller) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var names []string
	for name, m := range e.vms {
		vm, declared := e.applied.Host.VM(name)
		if m.record != nil {
			vm = m.record.VM
		}
		waits := declared && (m.retry != nil || m.pending > 0 || m.starting())
		if (m.record != nil || waits) && caller.mayUse(vm) {
			names = append(names, name)
		}
	}
	return names
}

// Why an up under way is ended.
var (
	errStopped = errors.New("it was stopped by a `bield down`")
	errDropped = fmt.Errorf("%w: it is no longer declared", ErrConflict)
)

// down stops one VM. Once begun it goes on to the end, client or not: half a
// stop serves nobody.
func (e *Engine) down(ctx context.Context, caller Caller, t *turn, force bool, show func(Progress)) error {
	if err := e.await(ctx, t); err != nil {
		return err
	}
	defer e.leave(t)
	m := t.m
	// It may have become another's while this waited.
	if _, err := e.user(caller, m.name); err != nil {
		return err
	}
	e.mu.Lock()
	m.hurry(force) // the run may have begun since
	e.mu.Unlock()
	e.setFate(m.name, func(f *Fate) { *f = Fate{} })
	e.dropRetry(m)
	e.mu.Lock()
	there := m.record != nil
	e.mu.Unlock()
	if !there {
		e.setState(m, spec.StateDown, "")
		show(Progress{VM: m.name, Step: string(plan.StopVMM), State: "done", Message: "is down"})
		return nil
	}
	e.setState(m, spec.StateStopping, "")
	if err := e.takeBack(ctx, m, show); err != nil {
		e.setState(m, spec.StateFailed, err.Error())
		return fmt.Errorf("%s: %w", m.name, err)
	}
	e.setState(m, spec.StateDown, "")
	return nil
}

func (e *Engine) logProgress(p Progress) {
	if p.State == "failed" {
		e.Log.Error("step failed", "vm", p.VM, "step", p.Step, "error", p.Message)
	}
}
