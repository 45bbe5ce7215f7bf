package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"bield/internal/firewall"
	"bield/internal/network"
	"bield/internal/plan"
	"bield/internal/process"
	"bield/internal/spec"
	"bield/internal/state"
)

// observeHost says what of the host's own changes is in place. It needs
// e.hostMu.
func (e *Engine) observeHost() (spec.Observed, error) {
	record, err := loadHost(e.Run)
	if err != nil {
		return spec.Observed{}, err
	}
	on, err := network.Forwarding()
	if err != nil {
		return spec.Observed{}, err
	}
	bridge, err := e.bridgeStands(record)
	if err != nil {
		return spec.Observed{}, err
	}
	return spec.Observed{
		Bridge:     part(record.Bridge != "", bridge),
		Forwarding: part(record.Forwarding != nil, on),
		Firewall:   part(record.Firewall, true),
	}, nil
}

func part(recorded, seen bool) spec.Part {
	switch {
	case recorded && seen:
		return spec.Present
	case recorded:
		return spec.Partial
	default:
		return spec.Absent
	}
}

// bridgeStands says that bield's own bridge is there as recorded. Of a bridge
// of somebody else's, only the step itself can tell.
func (e *Engine) bridgeStands(record HostRecord) (bool, error) {
	links, err := network.Observe(e.Run.Owner())
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(links.Bridges, func(b network.BridgeStatus) bool {
		return b.Name == record.Bridge && b.Up && slices.Contains(b.Addresses, record.Address)
	}), nil
}

// observeVM says what of one VM is there: its record names the resources, the
// kernel says which of them live. It needs m.busy.
func (e *Engine) observeVM(ctx context.Context, m *machine) (spec.ObservedVM, error) {
	e.mu.Lock()
	record, r := m.record, m.run
	e.mu.Unlock()
	if record == nil {
		return spec.ObservedVM{}, nil
	}
	have := spec.ObservedVM{Record: true, Ready: record.Ready != nil, Shares: map[string]bool{}}
	for _, s := range record.Shares {
		p := r.share(s.Tag)
		have.Shares[s.Tag] = p != nil && !over(p.Done())
	}
	have.VMM = record.VMM != nil && (r == nil || r.vmm == nil || !over(r.vmm.Done()))
	links, err := network.Observe(e.Run.Owner())
	if err != nil {
		return have, err
	}
	bridge := e.host().Bridge
	have.Tap = part(record.Tap, slices.ContainsFunc(links.Taps, func(t network.TapStatus) bool {
		return t.Name == record.VM.Tap() && t.Bridge == bridge
	}))
	rules, err := firewall.Observe(ctx, e.Run.Owner())
	if err != nil {
		return have, err
	}
	have.Firewall = part(record.Firewall, rules.Matches(e.firewallConfig()))
	return have, nil
}

// takeOver makes the engine hold a VM that an earlier daemon started. The error
// says what of it is no longer there.
func (e *Engine) takeOver(ctx context.Context, m *machine) error {
	record := m.record.clone()
	if record.VMM == nil || record.Ready == nil {
		return errors.New("it had not come up")
	}
	r := newRun()
	if err := e.adoptProcesses(ctx, record, r); err != nil {
		r.release()
		return err
	}
	console, err := openConsole(state.Folder{Dir: e.host().StateDir}.Console(m.name), false)
	if err != nil {
		r.release()
		return err
	}
	r.console = console
	j := e.newJob(m, record.VM, Caller{}, e.logProgress)
	r.logs = j.logs()
	e.mu.Lock()
	m.run, m.state = r, spec.StateRunning
	e.mu.Unlock()
	e.attend(m, r)
	return nil
}

func (e *Engine) adoptProcesses(ctx context.Context, record Record, r *run) (err error) {
	if r.vmm, err = e.Driver.Adopt(ctx, e.Run.VM(record.VM.Name), *record.VMM); err != nil {
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

func over(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}
