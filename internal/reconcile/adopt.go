package reconcile

import (
	"context"
	"errors"
	"fmt"

	"bield/internal/plan"
	"bield/internal/process"
	"bield/internal/spec"
	"bield/internal/state"
)

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
	if err := e.adoptEgress(ctx); err != nil {
		e.Log.Error("take over the egress process", "error", err)
	}
	e.sweepGroups(ctx, records)
	for _, record := range records {
		e.adoptOne(ctx, e.machine(record.VM.Name))
	}
	e.showFailures()
	if err := e.settleHost(ctx, e.logProgress); err != nil {
		e.Log.Error("hold the host to what VMs need", "error", err)
	}
	return nil
}

// adoptOne goes on where the earlier daemon stopped: with a VM that runs, or
// with taking away one that was to go.
func (e *Engine) adoptOne(ctx context.Context, m *machine) {
	t, err := e.acquire(ctx, m.name)
	if err != nil {
		return
	}
	defer e.leave(t)
	record := m.record
	f, _ := e.fate(m.name)
	switch {
	case record.Stopping:
		err = errors.New("it was being stopped")
	case record.Ready == nil:
		err = errors.New("it had not come up")
	default:
		err = e.takeOver(ctx, m)
	}
	e.noteAdopted(m, err)
	if err == nil {
		// It may not have been noted; and who began a down was told that it failed.
		e.setFate(m.name, func(f *Fate) { f.Run = true })
		return
	}
	e.Log.Warn("remove what is left", "vm", m.name, "reason", err)
	if downErr := e.removeVM(ctx, m, e.logProgress); downErr != nil {
		e.Log.Error("remove what is left", "vm", m.name, "error", downErr)
		e.setState(m, spec.StateFailed, downErr.Error())
		return
	}
	e.setState(m, spec.StateDown, "")
	ended, unborn := record.Ready != nil, !f.Run && record.Ready == nil
	if !record.Stopping && (unborn || ended && !e.startsAgain(m.name, true)) {
		e.fail(m, fmt.Errorf("it did not survive its daemon: %w", err))
	}
}

// showFailures shows why VMs have failed that an earlier daemon knew of.
func (e *Engine) showFailures() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for name, f := range e.fates {
		if m := e.hold(name); f.Failure != "" && m.record == nil {
			m.state, m.failure = spec.StateFailed, f.Failure
		}
	}
}

// Resume starts the VMs that should run and don't: those that start with the
// daemon, and those that an earlier daemon was about to start. It returns at
// once, and is called before the first request.
func (e *Engine) Resume(ctx context.Context) {
	e.mu.Lock()
	vms := e.applied.Host.VMs
	e.mu.Unlock()
	for _, vm := range vms {
		m := e.machine(vm.Name)
		e.mu.Lock()
		there := m.record != nil
		e.mu.Unlock()
		if there || !e.toRun(vm) {
			continue
		}
		// From now on it is wanted, and its policy says what a failure means. A
		// `down` that comes now ends the waiting.
		e.setFate(vm.Name, func(f *Fate) { f.Run = true })
		e.startLater(ctx, m, 0, false)
	}
}

// takeOver makes the engine hold a VM that an earlier daemon started. The error
// says what of it is no longer there.
func (e *Engine) takeOver(ctx context.Context, m *machine) error {
	record := m.record.clone()
	if record.VMM == nil {
		return errors.New("it has no VMM")
	}
	r := newRun(record)
	if err := e.adoptProcesses(ctx, record, r); err != nil {
		r.release()
		return err
	}
	console, err := openConsole(state.Folder{Dir: record.Host.StateDir}.Console(m.name), false)
	if err != nil {
		r.release()
		return err
	}
	j := e.newJob(m, record.VM, Caller{}, e.logProgress)
	r.console, r.logs = console, j.logs()
	e.mu.Lock()
	m.run, m.state = r, spec.StateRunning
	e.mu.Unlock()
	e.attend(ctx, m, r)
	return nil
}

func (e *Engine) adoptProcesses(ctx context.Context, record Record, r *run) (err error) {
	driver, err := e.Hypervisors.Driver(record.Hypervisor)
	if err != nil {
		return err
	}
	if r.vmm, err = driver.Adopt(ctx, e.Run.VM(record.VM.Name), *record.VMM); err != nil {
		return fmt.Errorf("its VMM: %w", err)
	}
	for _, tag := range plan.Tags(record.VM) {
		id := record.share(tag).Process
		if id == nil {
			return fmt.Errorf("share %s: %w", tag, process.ErrGone)
		}
		p, err := process.Adopt(*id)
		if err != nil {
			return fmt.Errorf("share %s: %w", tag, err)
		}
		r.addShare(tag, p)
	}
	return nil
}
