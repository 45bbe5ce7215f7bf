package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"bield/internal/image"
	"bield/internal/plan"
	"bield/internal/spec"
)

// order is how a VM is to be brought up.
type order struct {
	// force starts a VM for which the host has not enough.
	force bool
	// changed restarts a VM that is not what its spec says.
	changed bool
	// anew restarts it in any case.
	anew bool
	// again counts a start of a VM that has ended by itself.
	again bool
}

// withVM holds a VM until work has ended, as it is declared now. A `down`, and
// the end of the caller's ctx, end that of work.
func (e *Engine) withVM(ctx context.Context, t *turn, show func(Progress), work func(context.Context, *job) error) error {
	if err := e.await(ctx, t); err != nil {
		return err
	}
	defer e.leave(t)
	m := t.m
	inner, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	detach := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	defer detach()
	if err := e.beginWork(t, cancel); err != nil {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	defer e.setCancel(m, nil)
	j, err := e.declaredJob(m, show)
	if err != nil {
		return err
	}
	defer j.close()
	j.detach = func() { detach() }
	err = work(inner, j)
	if cause := context.Cause(inner); errors.Is(err, context.Canceled) && cause != nil {
		err = cause
	}
	if err != nil {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	return nil
}

// beginWork notes how a down can end what a turn is for, unless one already has.
func (e *Engine) beginWork(t *turn, cancel context.CancelCauseFunc) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t.starts && t.stopped != nil {
		return t.stopped
	}
	t.m.cancel = cancel
	return nil
}

// declaredJob is a job for a VM of the applied spec.
func (e *Engine) declaredJob(m *machine, show func(Progress)) (*job, error) {
	e.mu.Lock()
	host := e.applied.Host
	vm, declared := host.VM(m.name)
	owner := e.applied.Owners[m.name]
	e.mu.Unlock()
	if !declared {
		return nil, fmt.Errorf("%w: VM %s is no longer declared", ErrConflict, m.name)
	}
	j := e.newJob(m, vm, Caller{UID: owner.UID, GID: owner.GID}, show)
	j.host = host
	return j, nil
}

// bring makes a VM run, as it is declared now, or leaves it running.
func (e *Engine) bring(ctx context.Context, caller Caller, t *turn, o order, show func(Progress)) error {
	return e.withVM(ctx, t, show, func(ctx context.Context, j *job) error {
		// It may have become another's while this waited.
		if _, err := e.user(caller, t.m.name); err != nil {
			return err
		}
		return j.bring(ctx, o)
	})
}

func (j *job) bring(ctx context.Context, o order) error {
	j.e.dropRetry(j.m)
	c, err := j.compare(ctx, o)
	if err != nil {
		return err
	}
	switch {
	case c.Action == plan.Start, c.Action == plan.Restart:
		err = j.startAnew(ctx, c, o)
	case len(c.Start) > 0:
		err = j.mend(ctx, c)
	default:
		err = j.e.hostUp(ctx, j.host, j.show)
	}
	if err != nil {
		return err
	}
	if quiet := o.changed && len(c.Reasons)+len(c.Pending) == 0; c.Action != plan.Start && c.Action != plan.Restart && !quiet {
		j.show(Progress{VM: j.vm.Name, Step: string(plan.AwaitReady), State: "done", Message: runsAlready(c)})
	}
	j.e.setFate(j.vm.Name, func(f *Fate) {
		f.Run, f.Failure = true, ""
		if !o.again {
			f.Restarts = 0
		}
	})
	return nil
}

// compare says what the VM takes to be what the order asks for.
func (j *job) compare(ctx context.Context, o order) (plan.Change, error) {
	have, err := j.e.observeVM(ctx, j.m)
	if err != nil {
		return plan.Change{}, err
	}
	w := plan.Wanted{VM: j.vm, Run: true, Keep: !o.changed}
	if w.Image, err = digestOf(j.vm.Image); err != nil {
		return plan.Change{}, err
	}
	if o.anew {
		return plan.Anew(w, have), nil
	}
	return plan.Of(w, j.host, have), nil
}

func digestOf(i spec.Image) (string, error) {
	inputs, err := image.Resolve(i)
	if err != nil {
		return "", err
	}
	return inputs.Digest(), nil
}

// startAnew takes away what is there and starts the VM; when that fails
// nothing of it is left.
func (j *job) startAnew(ctx context.Context, c plan.Change, o order) error {
	j.e.setFate(j.vm.Name, func(f *Fate) { f.Failure = "" })
	if err := j.makeWay(ctx, c, o); err != nil {
		return err
	}
	j.e.setState(j.m, spec.StateStarting, "")
	release, err := j.claim(ctx, o.force)
	if err == nil {
		defer release()
		err = j.bringUp(ctx, c.Start)
	}
	if err != nil {
		return j.notStarted(ctx, o, err)
	}
	j.e.setState(j.m, spec.StateRunning, "")
	return nil
}

// notStarted takes back a start that failed. One that was to go on running has
// failed then, or is tried again, as its restart policy says.
func (j *job) notStarted(ctx context.Context, o order, err error) error {
	err = j.undo(ctx, err)
	f, _ := j.e.fate(j.vm.Name)
	if errors.Is(err, errClosing) || o.again || !f.Run {
		return err
	}
	if j.e.startsAgain(j.vm.Name, true) {
		j.e.restartLater(ctx, j.m, err.Error(), 0)
	} else {
		j.e.fail(j.m, err)
	}
	return err
}

// makeWay takes away what is there of a VM that is to be started again, once
// all that can be known before says that the start will work.
func (j *job) makeWay(ctx context.Context, c plan.Change, o order) error {
	if len(c.Stop) == 0 {
		return j.prepare(ctx)
	}
	if err := j.ready(ctx, o); err != nil {
		return err
	}
	return j.takeAway(ctx)
}

// ready says that a VM that runs could be started again: its image is made and
// its memory kept for it.
func (j *job) ready(ctx context.Context, o order) error {
	if err := j.prepare(ctx); err != nil {
		return err
	}
	if err := j.fetchImage(ctx); err != nil {
		return err
	}
	return j.keepMemory(o.force)
}

// takeAway stops a VM that is to be started again. From here on the client may
// go: half a restart serves nobody.
func (j *job) takeAway(ctx context.Context) error {
	j.detach()
	j.e.setState(j.m, spec.StateStopping, "")
	if err := j.e.removeVM(ctx, j.m, j.show); err != nil {
		j.e.dropClaims(j.vm.Name)
		j.e.setState(j.m, spec.StateFailed, err.Error())
		return err
	}
	j.e.setState(j.m, spec.StateDown, "")
	return nil
}

// fetchImage makes the image before anything stops for it.
func (j *job) fetchImage(ctx context.Context) error {
	inputs, err := image.Resolve(j.vm.Image)
	if err != nil {
		return err
	}
	made, err := j.e.images.Build(ctx, inputs, j.buildProgress)
	if err == nil && j.vm.StoreOnDisk {
		_, err = made.Disk(ctx, j.buildProgress)
	}
	return err
}

// mend gives a VM that runs, and its host, what they lack. When that fails the
// VM goes on as it is.
func (j *job) mend(ctx context.Context, c plan.Change) error {
	if err := j.e.hostUp(ctx, j.host, j.show); err != nil {
		return err
	}
	for _, step := range c.Start {
		if err := j.do(ctx, step); err != nil {
			return err
		}
	}
	return nil
}

// update gives the VM what can be changed while it runs.
func (j *job) update(ctx context.Context) error {
	record := j.record()
	keys := record.VM.User.AuthorizedKeys
	record.VM.User.AuthorizedKeys = j.vm.User.AuthorizedKeys
	record.VM.StopTimeout, record.VM.Autostart = j.vm.StopTimeout, j.vm.Autostart
	record.VM.Restart, record.VM.RestartIfChanged = j.vm.Restart, j.vm.RestartIfChanged
	if !slices.Equal(keys, j.vm.User.AuthorizedKeys) {
		if err := j.authorize(ctx, record.Authorized); err != nil {
			return err
		}
	}
	record.VM.Egress = j.vm.Egress
	record.Host.ExternalInterface = j.host.ExternalInterface
	record.Host.TrustBridge, record.Host.HostPorts, record.Host.GuestToGuest = j.host.TrustBridge, j.host.HostPorts, j.host.GuestToGuest
	if err := j.save(record); err != nil {
		return err
	}
	return j.e.syncFirewall(ctx)
}

func runsAlready(c plan.Change) string {
	switch {
	case len(c.Pending) > 0:
		return fmt.Sprintf("runs already, and a restart is needed: %s (`bield restart %s`)", strings.Join(c.Pending, ", "), c.VM)
	case len(c.Reasons) > 0:
		return "runs already; " + strings.Join(c.Reasons, ", ")
	default:
		return "runs already"
	}
}

// undo takes back what a failed start has made, and returns the error to tell.
func (j *job) undo(ctx context.Context, err error) error {
	j.e.Log.Warn("start failed", "vm", j.vm.Name, "error", err)
	j.e.setState(j.m, spec.StateStopping, "")
	undoErr := j.e.takeBack(ctx, j.m, j.show)
	if undoErr == nil {
		j.e.setState(j.m, spec.StateDown, "")
		return err
	}
	j.e.setState(j.m, spec.StateFailed, "left over of a failed start: "+undoErr.Error())
	return fmt.Errorf("%w\nand what was made could not all be taken back (`bield down %s` tries again): %w", err, j.vm.Name, undoErr)
}

// removeVM removes all that is left of one VM. It needs the VM's turn.
func (e *Engine) removeVM(ctx context.Context, m *machine, show func(Progress)) error {
	e.mu.Lock()
	record := m.record
	e.mu.Unlock()
	if record == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout+record.VM.StopTimeout)
	defer cancel()
	have, err := e.observeVM(ctx, m)
	if err != nil {
		return err
	}
	j := e.newJob(m, record.VM, Caller{}, show)
	j.host = record.Host
	_ = j.drop(func(r *Record) { r.Stopping = true })
	// A step that fails must not keep the others from removing their part.
	var failures []error
	for _, step := range plan.Remove(m.name, have, "") {
		if step.Kind == plan.Forget && len(failures) > 0 {
			continue
		}
		if err := j.do(ctx, step); err != nil {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}

// takeBack removes all that is left of one VM, and of the host when it was the
// last. It needs the VM's turn.
func (e *Engine) takeBack(ctx context.Context, m *machine, show func(Progress)) error {
	err := e.removeVM(ctx, m, show)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	return errors.Join(err, e.hostDown(ctx, show))
}
