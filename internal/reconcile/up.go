package reconcile

import (
	"context"
	"errors"
	"fmt"
	"reflect"
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
	host, vms, err := e.accept(caller, request)
	if err != nil {
		return err
	}
	return e.each(len(vms), func(i int) error {
		return e.up(ctx, caller, host, vms[i], show)
	})
}

// each runs work for 0…n-1 with a bounded number at once; errors come in order.
func (e *Engine) each(n int, work func(int) error) error {
	slots := make(chan struct{}, max(1, e.Cores))
	failures := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			failures[i] = work(i)
		})
	}
	all.Wait()
	return errors.Join(failures...)
}

// up brings one VM up.
func (e *Engine) up(ctx context.Context, caller Caller, host spec.Host, vm spec.VM, show func(Progress)) error {
	m := e.machine(vm.Name)
	defer e.settle(m)
	if err := m.acquire(ctx); err != nil {
		return err
	}
	defer m.release()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	e.setCancel(m, cancel)
	defer e.setCancel(m, nil)
	j := e.newJob(m, vm, caller, show)
	j.host = host
	defer j.close()
	if err := j.prepare(ctx); err != nil {
		return fmt.Errorf("%s: %w", vm.Name, err)
	}
	have, err := e.observeVM(ctx, m)
	if err != nil {
		return fmt.Errorf("%s: %w", vm.Name, err)
	}
	if steps := plan.VM(vm, have); have.Record && have.VMM && !slices.ContainsFunc(steps, makesImage) {
		return j.mend(ctx, steps)
	} else if err := j.bringUp(ctx, steps); err != nil {
		return fmt.Errorf("%s: %w", vm.Name, j.undo(ctx, err))
	}
	e.setState(m, spec.StateRunning, "")
	return nil
}

// settle says that an accepted up is over.
func (e *Engine) settle(m *machine) {
	e.mu.Lock()
	defer e.mu.Unlock()
	m.pending--
}

// setCancel says how an up under way can be ended by a down.
func (e *Engine) setCancel(m *machine, cancel context.CancelCauseFunc) {
	e.mu.Lock()
	defer e.mu.Unlock()
	m.cancel = cancel
}

func makesImage(s plan.Step) bool { return s.Kind == plan.MakeImage }

// mend gives a VM that runs, and its host, what they lack. When that fails the
// VM goes on as it is.
func (j *job) mend(ctx context.Context, steps []plan.Step) error {
	err := j.e.hostUp(ctx, j.host, j.show)
	for _, step := range steps {
		if err == nil {
			err = j.do(ctx, step)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", j.vm.Name, err)
	}
	j.show(Progress{VM: j.vm.Name, Step: string(plan.AwaitReady), State: "done", Message: j.runsAlready()})
	return nil
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

// runsAlready says so, and that the file may have changed since.
func (j *job) runsAlready() string {
	if reflect.DeepEqual(j.record().VM, j.vm) {
		return "runs already"
	}
	return fmt.Sprintf("runs already, as it was declared when it started: `bield down %s`, then up, applies the changes", j.vm.Name)
}

// Down stops VMs; no name means all that run and that the caller may use. It
// returns when nothing of them is left.
func (e *Engine) Down(ctx context.Context, caller Caller, names []string, force bool, show func(Progress)) error {
	if len(names) == 0 {
		names = e.usable(caller)
	}
	var machines []*machine
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		m, err := e.user(caller, name)
		if err != nil {
			return err
		}
		machines = append(machines, m)
	}
	return e.each(len(machines), func(i int) error {
		return e.down(ctx, machines[i], force, show)
	})
}

// usable names the VMs that run and that the caller may use.
func (e *Engine) usable(caller Caller) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.DeleteFunc(e.running(), func(name string) bool {
		return !caller.mayUse(e.vms[name].record.VM)
	})
}

var (
	errStopped = errors.New("it was stopped by a `bield down`")
)

// interrupt makes way for a down: it ends an up, and, with force, does not wait
// for a guest that is just being asked to power off.
func (e *Engine) interrupt(m *machine, force bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if m.cancel != nil {
		m.cancel(errStopped)
	}
	if force && m.run != nil {
		m.run.forceOff()
	}
}

// down stops one VM. Once begun it goes on to the end, client or not: half a
// stop serves nobody.
func (e *Engine) down(ctx context.Context, m *machine, force bool, show func(Progress)) error {
	e.interrupt(m, force)
	if err := m.acquire(ctx); err != nil {
		return err
	}
	defer m.release()
	e.interrupt(m, force) // the run may have begun since
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

// takeBack removes all that is left of one VM, and of the host when it was the
// last. It needs m.busy.
func (e *Engine) takeBack(ctx context.Context, m *machine, show func(Progress)) error {
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
	failures = append(failures, e.hostDown(ctx, show))
	return errors.Join(failures...)
}

// adopt takes over what an earlier daemon of this run directory left. What
// cannot be taken over or removed is logged, and is tried again by `down`: a
// daemon that does not serve would help nobody.
func (e *Engine) adopt(ctx context.Context) error {
	records, err := loadRecords(e.Run, e.Log)
	if err != nil {
		return err
	}
	for _, record := range records {
		m := e.machine(record.VM.Name)
		e.mu.Lock()
		m.record = &record
		e.mu.Unlock()
	}
	for _, record := range records {
		e.adoptOne(ctx, e.machine(record.VM.Name))
	}
	if err := e.hostDown(ctx, e.logProgress); err != nil {
		e.Log.Error("take back what was changed on the host", "error", err)
	}
	return nil
}

func (e *Engine) adoptOne(ctx context.Context, m *machine) {
	err := e.takeOver(ctx, m)
	if err == nil {
		return
	}
	e.Log.Warn("remove what is left", "vm", m.name, "reason", err)
	if downErr := e.down(ctx, m, true, e.logProgress); downErr != nil {
		e.Log.Error("remove what is left", "vm", m.name, "error", downErr)
		return
	}
	e.setState(m, spec.StateFailed, "it did not survive its daemon: "+err.Error())
}

func (e *Engine) logProgress(p Progress) {
	if p.State == "failed" {
		e.Log.Error("step failed", "vm", p.VM, "step", p.Step, "error", p.Message)
	}
}
