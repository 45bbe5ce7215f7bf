package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"bield/internal/plan"
	"bield/internal/spec"
	"bield/internal/state"
)

// ApplyRequest hands over a checked host to be brought about.
type ApplyRequest struct {
	Host   spec.Host
	Origin string
	// Force starts VMs for which the host has not enough.
	Force bool
	// Purge removes the state folders of VMs that the file no longer declares.
	Purge bool
}

// Step is one named change to the host.
type Step = plan.Step

// Planned is what an apply would do.
type Planned struct {
	plan.Plan
	// Unchanged names the VMs of the file that stay as they are.
	Unchanged []string
	// Purgeable names VMs that the file no longer declares and that have a
	// state folder still.
	Purgeable []string
}

// Plan says what an Apply of the same host would do, and changes nothing.
func (e *Engine) Plan(ctx context.Context, caller Caller, request ApplyRequest) (Planned, error) {
	e.acceptMu.Lock()
	a, err := e.weigh(caller, UpRequest{Host: request.Host, Origin: request.Origin}, true)
	e.acceptMu.Unlock()
	if err != nil {
		return Planned{}, err
	}
	want, err := e.desired(a.after, request.Origin)
	if err != nil {
		return Planned{}, err
	}
	have, err := e.observe(ctx, caller, a.after, request.Origin)
	if err != nil {
		return Planned{}, err
	}
	p := Planned{Plan: plan.Diff(want, have), Purgeable: e.purgeable(caller, a.after, request.Origin)}
	for _, w := range want.VMs {
		if !slices.ContainsFunc(p.VMs, func(c plan.Change) bool { return c.VM == w.Name }) {
			p.Unchanged = append(p.Unchanged, w.Name)
		}
	}
	return p, nil
}

// desired is what the VMs of one file should be.
func (e *Engine) desired(applied Applied, origin string) (plan.Desired, error) {
	want := plan.Desired{Host: applied.Host}
	digests := newDigests()
	for _, vm := range applied.Host.VMs {
		if applied.Origins[vm.Name] != origin {
			continue
		}
		digest, err := digests.of(vm.Image)
		if err != nil {
			return want, fmt.Errorf("%s: %w", vm.Name, err)
		}
		run := e.applyRuns(vm) || e.underWay(vm.Name)
		want.VMs = append(want.VMs, plan.Wanted{VM: vm, Run: run, Image: digest})
	}
	return want, nil
}

// applyRuns says that an apply makes a VM run: one that autostart wants, also
// if it was stopped, and one that was started.
func (e *Engine) applyRuns(vm spec.VM) bool { return vm.Autostart || e.toRun(vm) }

// underWay says that somebody is just changing a VM, or about to.
func (e *Engine) underWay(name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	m := e.vms[name]
	return m != nil && (m.cancel != nil || len(m.busy) > 0 || m.pending > 0)
}

// observe says what there is of a file's VMs.
func (e *Engine) observe(ctx context.Context, caller Caller, applied Applied, origin string) (spec.Observed, error) {
	e.hostMu.Lock()
	have, err := e.observeHost(applied.Host)
	e.hostMu.Unlock()
	if err != nil {
		return have, err
	}
	seen, err := e.see(ctx)
	if err != nil {
		return have, err
	}
	have.VMs = map[string]spec.ObservedVM{}
	e.mu.Lock()
	defer e.mu.Unlock()
	for name, m := range e.vms {
		if m.record == nil {
			continue
		}
		if applied.Origins[name] == origin || e.goneFrom(m, caller, applied, origin) {
			have.VMs[name] = seen.of(m.record, m.run)
		} else {
			have.Others = true
		}
	}
	return have, nil
}

// goneFrom says that a VM of which something is there was declared by that file
// and is no longer, by any. Needs e.mu.
func (e *Engine) goneFrom(m *machine, caller Caller, applied Applied, origin string) bool {
	_, declared := applied.Origins[m.name]
	return !declared && m.record != nil && m.record.Origin == origin && caller.mayUse(m.record.VM)
}

// Apply brings about what a file declares: VMs that changed are restarted, or
// changed while they run; those that are no longer declared go; those that
// should run and don't are started. VMs of other files are not touched.
func (e *Engine) Apply(ctx context.Context, caller Caller, request ApplyRequest, show func(Progress)) error {
	a, err := e.accept(caller, UpRequest{Host: request.Host, Origin: request.Origin}, true)
	if err != nil {
		return err
	}
	defer e.settle(a.names)
	gone := e.gone(caller, a, request.Origin)
	o := order{force: request.Force, changed: true}
	// What goes goes first: its names, addresses and memory are then free.
	var failed failures
	left := each(gone, func(name string) error { return e.remove(ctx, name, show) })
	_ = each(a.names, func(name string) error { return failed.note(name, e.clear(ctx, name, o, show)) })
	_ = each(a.names, func(name string) error {
		if failed.has(name) {
			return nil
		}
		return failed.note(name, e.realize(ctx, name, o, show))
	})
	err = errors.Join(left, failed.all(a.names), e.hostDown(context.WithoutCancel(ctx), show))
	if request.Purge && err == nil {
		err = e.purge(caller, request.Origin, show)
	}
	return err
}

// gone names the VMs that a file has declared and no longer does. One of which
// nothing is there yet may just be starting.
func (e *Engine) gone(caller Caller, a accepted, origin string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var names []string
	for _, name := range slices.Sorted(maps.Keys(e.vms)) {
		_, declared := a.after.Origins[name]
		dropped := a.before.Origins[name] == origin && !declared
		if dropped || e.goneFrom(e.vms[name], caller, a.after, origin) {
			names = append(names, name)
		}
	}
	return names
}

// remove takes away a VM that is no longer declared.
func (e *Engine) remove(ctx context.Context, name string, show func(Progress)) error {
	m := e.machine(name)
	e.interrupt(m, false)
	if err := m.acquire(ctx); err != nil {
		return err
	}
	defer m.release()
	if e.isDeclared(name) {
		return nil // by a later request
	}
	e.dropRetry(m)
	e.dropFate(name)
	e.setState(m, spec.StateStopping, "")
	if err := e.removeVM(ctx, m, show); err != nil {
		e.setState(m, spec.StateFailed, err.Error())
		return fmt.Errorf("%s: %w", name, err)
	}
	e.setState(m, spec.StateDown, "")
	return nil
}

func (e *Engine) isDeclared(name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, declared := e.applied.Host.VM(name)
	return declared
}

// clear takes away what of a VM must go before it can be what it should be.
func (e *Engine) clear(ctx context.Context, name string, o order, show func(Progress)) error {
	if !e.isDeclared(name) {
		return nil // since a later request
	}
	return e.withVM(ctx, name, show, func(ctx context.Context, j *job) error {
		have, err := e.observeVM(ctx, j.m)
		switch {
		case err != nil:
			return err
		case !have.Record:
			return nil
		case !e.applyRuns(j.vm):
			j.e.setState(j.m, spec.StateStopping, "")
			err := e.removeVM(ctx, j.m, show)
			e.setState(j.m, spec.StateDown, "")
			return err
		}
		c, err := j.compare(ctx, o)
		if err != nil || c.Action != plan.Restart {
			return err
		}
		return j.makeWay(ctx, c, o)
	})
}

// realize makes a VM run that should.
func (e *Engine) realize(ctx context.Context, name string, o order, show func(Progress)) error {
	if !e.isDeclared(name) {
		return nil
	}
	return e.withVM(ctx, name, show, func(ctx context.Context, j *job) error {
		if !e.applyRuns(j.vm) {
			return nil
		}
		e.dropRetry(j.m)
		return j.bring(ctx, o)
	})
}

// purgeable names the VMs whose state folder is left although their file no
// longer declares them.
func (e *Engine) purgeable(caller Caller, applied Applied, origin string) []string {
	var names []string
	folder := state.Folder{Dir: applied.Host.StateDir}
	for _, name := range slices.Sorted(maps.Keys(applied.Gone)) {
		g := applied.Gone[name]
		if _, err := os.Lstat(folder.VM(name)); err != nil || g.Origin != origin || !caller.Root() && caller.UID != g.UID {
			continue
		}
		names = append(names, name)
	}
	return names
}

// purge removes the state folders of VMs that the file no longer declares.
func (e *Engine) purge(caller Caller, origin string, show func(Progress)) error {
	e.acceptMu.Lock()
	defer e.acceptMu.Unlock()
	applied, _ := e.snapshot()
	names := e.purgeable(caller, applied, origin)
	if len(names) == 0 {
		return nil
	}
	folder := state.Folder{Dir: applied.Host.StateDir}
	applied.Gone = maps.Clone(applied.Gone)
	var failures []error
	for _, name := range names {
		err := errors.Join(removeAll(folder.VM(name)), state.Remove(folder.Console(name)), state.Remove(folder.Console(name)+".1"))
		if err == nil {
			delete(applied.Gone, name)
			show(Progress{VM: name, Step: "purge", State: "done", Message: "its state folder is removed"})
		}
		failures = append(failures, err)
	}
	if err := saveApplied(e.Run, applied); err != nil {
		return errors.Join(append(failures, err)...)
	}
	e.mu.Lock()
	e.applied = applied
	e.mu.Unlock()
	return errors.Join(failures...)
}
