package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"

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
	// Purge names VMs whose state folders go, if the file no longer declares them.
	Purge []string
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
	want, err := e.desired(caller, a.after, request.Origin)
	if err != nil {
		return Planned{}, err
	}
	have, err := e.observe(ctx, caller, a.after, request.Origin)
	if err != nil {
		return Planned{}, err
	}
	p := Planned{Plan: plan.Diff(want, have), Purgeable: e.purgeable(caller, a.after, request.Origin, e.gone(caller, a, request.Origin))}
	for _, w := range want.VMs {
		if !slices.ContainsFunc(p.VMs, func(c plan.Change) bool { return c.VM == w.Name }) {
			p.Unchanged = append(p.Unchanged, w.Name)
		}
	}
	return p, nil
}

// desired is what the VMs of one file should be, as far as the caller may know.
func (e *Engine) desired(caller Caller, applied Applied, origin string) (plan.Desired, error) {
	want := plan.Desired{Host: applied.Host}
	digests := newDigests()
	for _, vm := range applied.Host.VMs {
		if applied.Origins[vm.Name] != origin || !caller.mayUse(vm) {
			continue
		}
		digest, err := digests.of(vm.Image)
		if err != nil {
			return want, fmt.Errorf("%s: %w", vm.Name, err)
		}
		run := e.applyRuns(vm) || e.underWay(vm.Name, 0)
		want.VMs = append(want.VMs, plan.Wanted{VM: vm, Run: run, Image: digest})
	}
	return want, nil
}

// applyRuns says that an apply makes a VM run: one that autostart wants, also
// if it was stopped, and one that was started.
func (e *Engine) applyRuns(vm spec.VM) bool { return vm.Autostart || e.toRun(vm) }

// underWay says that somebody is just changing a VM, or about to, beside the
// caller's own calls.
func (e *Engine) underWay(name string, own int) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	m := e.vms[name]
	return m != nil && (len(m.queue) > 0 || m.retry != nil || m.pending > own)
}

// observe says what there is of a file's VMs.
func (e *Engine) observe(ctx context.Context, caller Caller, applied Applied, origin string) (spec.Observed, error) {
	e.hostMu.Lock()
	have, err := e.observeHost(ctx, applied.Host)
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
			vm := seen.of(m.record, m.run)
			vm.Ready = vm.Ready || m.cancel != nil // somebody sees to that
			have.VMs[name] = vm
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
// should run and don't are started. VMs of other files, and those without a
// change, are not touched.
func (e *Engine) Apply(ctx context.Context, caller Caller, request ApplyRequest, show func(Progress)) error {
	if err := mayForce(caller, request.Force); err != nil {
		return err
	}
	done, err := e.waitForApply(ctx, request.Origin)
	if err != nil {
		return err
	}
	defer done()
	a, err := e.accept(ctx, caller, UpRequest{Host: request.Host, Origin: request.Origin}, true)
	if err != nil {
		return err
	}
	defer e.settle(a.names)
	// What goes goes first: its names, addresses and memory are then free.
	gone := each(e.gone(caller, a, request.Origin), func(name string) error { return e.remove(ctx, name, show) })
	names, err := e.concerned(ctx, caller, request.Origin)
	if err != nil {
		return errors.Join(gone, err)
	}
	w := &wave{e: e, accepted: a, order: order{force: request.Force, changed: true}, show: show}
	err = errors.Join(gone, w.roll(ctx, names, !sameGround(a.before.Host, a.after.Host)), e.settleHost(ctx, show))
	if len(request.Purge) > 0 && err == nil {
		err = e.purge(caller, request, show)
	}
	return err
}

// waitForApply waits until no apply of that file is under way, and lets nobody
// else begin with it until done is called: what is asked for during an apply
// comes after it, for all VMs.
func (e *Engine) waitForApply(ctx context.Context, origin string) (done func(), err error) {
	for {
		e.mu.Lock()
		other, busy := e.applying[origin]
		if !busy {
			mine := make(chan struct{})
			e.applying[origin] = mine
			e.mu.Unlock()
			return func() {
				e.mu.Lock()
				defer e.mu.Unlock()
				delete(e.applying, origin)
				close(mine)
			}, nil
		}
		e.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for an apply under way: %w", context.Cause(ctx))
		}
	}
}

// stoppedSince says that a `down` came after the request: it has the last word.
func (e *Engine) stoppedSince(name string, a accepted) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.hold(name).downs != a.downs[name]
}

// concerned names the VMs of a file that differ from it, or that somebody is
// just changing.
func (e *Engine) concerned(ctx context.Context, caller Caller, origin string) ([]string, error) {
	applied, _ := e.snapshot()
	want, err := e.desired(caller, applied, origin)
	if err != nil {
		return nil, err
	}
	have, err := e.observe(ctx, caller, applied, origin)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, w := range want.VMs {
		w.Run = e.applyRuns(w.VM)
		if c := plan.Of(w, want.Host, have.VMs[w.Name]); c.Action != "" || e.underWay(w.Name, 1) {
			names = append(names, w.Name)
		}
	}
	return names, nil
}

// settleHost gives the host what VMs that run need, or takes back what none
// needs any more.
func (e *Engine) settleHost(ctx context.Context, show func(Progress)) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	e.mu.Lock()
	used := len(e.running()) > 0
	e.mu.Unlock()
	if !used {
		return e.hostDown(ctx, show)
	}
	return e.hostUp(ctx, e.host(), show)
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
	e.mu.Lock()
	e.hold(name).stopStarts(errDropped)
	t := e.queueUp(name, false)
	e.mu.Unlock()
	if err := e.await(ctx, t); err != nil {
		return err
	}
	defer e.leave(t)
	m := t.m
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

// purgeable names the VMs whose state folder is left although their file no
// longer declares them. Those that are to go first count as gone.
func (e *Engine) purgeable(caller Caller, applied Applied, origin string, going []string) []string {
	var names []string
	folder := state.Folder{Dir: applied.Host.StateDir}
	for _, name := range slices.Sorted(maps.Keys(applied.Gone)) {
		g := applied.Gone[name]
		if g.Origin == origin && caller.mayPurge(folder.VM(name), g.UID) && (slices.Contains(going, name) || !e.inUse(name)) {
			names = append(names, name)
		}
	}
	return names
}

// mayPurge says that there is a folder and that the caller may remove it: who is
// not root, only a folder of their own.
func (c Caller) mayPurge(folder string, user uint32) bool {
	info, err := os.Lstat(folder)
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return c.Root() || ok && st.Uid == c.UID && user == c.UID
}

// inUse says that something of a VM is there, or about to be.
func (e *Engine) inUse(name string) bool {
	e.mu.Lock()
	m := e.vms[name]
	there := m != nil && m.record != nil
	e.mu.Unlock()
	return there || e.underWay(name, 0)
}

// purge removes the state folders of VMs that the file no longer declares, and that
// were named.
func (e *Engine) purge(caller Caller, request ApplyRequest, show func(Progress)) error {
	e.acceptMu.Lock()
	defer e.acceptMu.Unlock()
	applied, _ := e.snapshot()
	names := slices.DeleteFunc(e.purgeable(caller, applied, request.Origin, nil), func(name string) bool {
		return !slices.Contains(request.Purge, name)
	})
	if len(names) == 0 {
		return nil
	}
	folder := state.Folder{Dir: applied.Host.StateDir}
	applied.Gone = maps.Clone(applied.Gone)
	var failures []error
	for _, name := range names {
		err := errors.Join(removeAll(folder.VM(name)), state.Remove(folder.Console(name)), state.Remove(folder.Console(name)+".1"), state.Remove(folder.Verified(name)))
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
