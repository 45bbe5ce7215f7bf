package reconcile

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
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
	vms, err := e.accept(caller, request)
	if err != nil {
		return err
	}
	return e.each(len(vms), func(i int) error {
		return e.up(ctx, caller, vms[i], show)
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
func (e *Engine) up(ctx context.Context, caller Caller, vm spec.VM, show func(Progress)) error {
	m := e.machine(vm.Name)
	if err := m.acquire(ctx); err != nil {
		return err
	}
	defer m.release()
	j := e.newJob(m, vm, caller, show)
	defer j.close()
	if err := j.prepare(ctx); err != nil {
		return fmt.Errorf("%s: %w", vm.Name, err)
	}
	have, err := e.observeVM(m)
	if err != nil {
		return fmt.Errorf("%s: %w", vm.Name, err)
	}
	steps := plan.VM(vm, have)
	if len(steps) == 0 {
		show(Progress{VM: vm.Name, Step: string(plan.AwaitReady), State: "done", Message: j.runsAlready()})
		return nil
	}
	e.setState(m, spec.StateStarting, "")
	err = j.bringUp(ctx, steps)
	if err == nil {
		e.setState(m, spec.StateRunning, "")
		return nil
	}
	e.Log.Warn("start failed", "vm", vm.Name, "error", err)
	e.setState(m, spec.StateDown, "")
	if undoErr := e.takeBack(ctx, m, show); undoErr != nil {
		e.setState(m, spec.StateFailed, "left over of a failed start: "+undoErr.Error())
		err = fmt.Errorf("%w\nand what was made could not all be taken back (`bield down %s` tries again): %w", err, vm.Name, undoErr)
	}
	return fmt.Errorf("%s: %w", vm.Name, err)
}

// runsAlready says so, and that the file may have changed since.
func (j *job) runsAlready() string {
	if reflect.DeepEqual(j.record().VM, j.vm) {
		return "runs already"
	}
	return fmt.Sprintf("runs already, as it was declared when it started: `bield down %s`, then up, applies the changes", j.vm.Name)
}

// Down stops VMs; no name means all that run. It returns when nothing of them
// is left.
func (e *Engine) Down(ctx context.Context, _ Caller, names []string, force bool, show func(Progress)) error {
	e.mu.Lock()
	known := e.running()
	for _, vm := range e.applied.Host.VMs {
		known = append(known, vm.Name)
	}
	if len(names) == 0 {
		names = e.running()
	}
	e.mu.Unlock()
	for _, name := range names {
		if !slices.Contains(known, name) {
			return fmt.Errorf("%w: this host knows no VM %q (`bield ls` lists them)", ErrNotFound, name)
		}
	}
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	return e.each(len(names), func(i int) error {
		return e.down(ctx, e.machine(names[i]), force, show)
	})
}

// down stops one VM. Once begun it goes on to the end, client or not: half a
// stop serves nobody.
func (e *Engine) down(ctx context.Context, m *machine, force bool, show func(Progress)) error {
	if err := m.acquire(ctx); err != nil {
		return err
	}
	defer m.release()
	e.mu.Lock()
	there, r := m.record != nil, m.run
	e.mu.Unlock()
	if !there {
		e.setState(m, spec.StateDown, "")
		show(Progress{VM: m.name, Step: string(plan.StopVMM), State: "done", Message: "is down"})
		return nil
	}
	e.setState(m, spec.StateStopping, "")
	if force && r != nil {
		r.force.Store(true)
	}
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
	have, err := e.observeVM(m)
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

// adopt takes over what an earlier daemon of this run directory left.
func (e *Engine) adopt(ctx context.Context) error {
	records, err := loadRecords(e.Run)
	if err != nil {
		return err
	}
	var lost []string
	for _, record := range records {
		m := e.machine(record.VM.Name)
		e.mu.Lock()
		m.record = &record
		e.mu.Unlock()
		if err := e.takeOver(ctx, m); err != nil {
			lost = append(lost, record.VM.Name)
			e.Log.Warn("remove what is left", "vm", record.VM.Name, "reason", err)
			if err := e.down(ctx, m, true, e.logProgress); err != nil {
				e.Log.Error("remove what is left", "vm", record.VM.Name, "error", err)
			}
		}
	}
	if len(records) == 0 {
		return e.hostDown(ctx, e.logProgress)
	}
	if len(lost) > 0 {
		e.Log.Info("removed what was left of VMs that had ended", "vms", strings.Join(lost, " "))
	}
	return nil
}

func (e *Engine) logProgress(p Progress) {
	if p.State == "failed" {
		e.Log.Error("step failed", "vm", p.VM, "step", p.Step, "error", p.Message)
	}
}
