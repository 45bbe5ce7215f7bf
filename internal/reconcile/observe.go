package reconcile

import (
	"context"
	"slices"

	"bield/internal/firewall"
	"bield/internal/network"
	"bield/internal/plan"
	"bield/internal/spec"
)

// observeHost says what of the host's own changes is in place, for a spec of
// that host. It needs e.hostMu.
func (e *Engine) observeHost(ctx context.Context, host spec.Host) (spec.Observed, error) {
	record, err := e.hostRecord()
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
	o := spec.Observed{
		Bridge:     part(record.Bridge != "", bridge),
		Forwarding: part(record.Forwarding != nil, on),
		Firewall:   part(record.Firewall, true),
		Egress:     part(record.Egress != nil, e.egressLives()),
		Passage:    part(len(record.Passages) > 0, true),
	}
	if host.Bridge != "" {
		found, _, err := e.obstructions(ctx, host)
		if err != nil {
			return spec.Observed{}, err
		}
		o.CutOff = found.Sure()
	}
	if record.Bridge != "" && host.Bridge != "" && (record.Bridge != host.Bridge || record.Address != address(host)) {
		o.Bridge, o.OtherBridge = spec.Partial, true
	}
	return o, nil
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

// sight is what the kernel shows of bield's links and rules at one moment.
type sight struct {
	links network.Links
	rules spec.Part
}

// see asks the kernel. Tables that are just being rebuilt can't be read.
func (e *Engine) see(ctx context.Context) (sight, error) {
	e.hostMu.Lock()
	defer e.hostMu.Unlock()
	links, err := network.Observe(e.Run.Owner())
	if err != nil {
		return sight{}, err
	}
	rules, err := firewall.Observe(ctx, e.Run.Owner())
	if err != nil {
		return sight{}, err
	}
	if _, err := e.hostRecord(); err != nil {
		return sight{}, err
	}
	return sight{links: links, rules: part(true, rules.Matches(e.firewallConfig()) && e.isolated(links))}, nil
}

// isolated says that bield's taps are isolated from each other, or not, as the
// spec has it.
func (e *Engine) isolated(links network.Links) bool {
	peers := e.host().GuestToGuest
	return !slices.ContainsFunc(links.Taps, func(t network.TapStatus) bool { return t.Isolated == peers })
}

// of says what of one VM is there: its record names the resources, the kernel
// says which of them live.
func (s sight) of(record *Record, r *run) spec.ObservedVM {
	have := spec.ObservedVM{
		Record: true, Spec: &record.VM, Host: &record.Host, Hypervisor: record.Hypervisor.Kind, Image: record.Image,
		Ready: record.Ready != nil, Shares: map[string]bool{},
	}
	for _, share := range record.Shares {
		p := r.share(share.Tag)
		have.Shares[share.Tag] = p != nil && !over(p.Done())
	}
	have.VMM = record.VMM != nil && (r == nil || r.vmm == nil || !over(r.vmm.Done()))
	have.Tap = part(record.Tap, slices.ContainsFunc(s.links.Taps, func(t network.TapStatus) bool {
		return t.Name == record.VM.Tap() && t.Bridge == record.Host.Bridge
	}))
	if record.Firewall {
		have.Firewall = s.rules
	}
	return have
}

// observeVM says what of one VM is there. It needs the VM's turn.
func (e *Engine) observeVM(ctx context.Context, m *machine) (spec.ObservedVM, error) {
	e.mu.Lock()
	record, r := m.record, m.run
	e.mu.Unlock()
	if record == nil {
		return spec.ObservedVM{}, nil
	}
	s, err := e.see(ctx)
	if err != nil {
		return spec.ObservedVM{Record: true}, err
	}
	return s.of(record, r), nil
}

// restartNeeded lists what a VM that runs gets only by a restart. Needs e.mu.
func (e *Engine) restartNeeded(vm spec.VM, m *machine, d digests) []string {
	if m.record == nil || m.record.Ready == nil {
		return nil
	}
	have := spec.ObservedVM{Spec: &m.record.VM, Host: &m.record.Host, Hypervisor: m.record.Hypervisor.Kind, Image: m.record.Image}
	return plan.RestartNeeded(plan.Wanted{VM: vm, Image: d.knownOf(vm.Image)}, e.applied.Host, have)
}

func over(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}
