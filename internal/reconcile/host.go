package reconcile

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"

	"bield/internal/firewall"
	"bield/internal/network"
	"bield/internal/plan"
	"bield/internal/spec"
)

// hostUp makes what the host itself lacks. The caller's VM must have a record
// by now.
func (e *Engine) hostUp(ctx context.Context, host spec.Host, show func(Progress)) error {
	e.hostMu.Lock()
	defer e.hostMu.Unlock()
	have, err := e.observeHost(ctx, host)
	if err != nil {
		return err
	}
	if have.OtherBridge {
		if err := e.mayReplaceBridge(host); err != nil {
			return err
		}
	}
	if err := e.hostSteps(ctx, plan.HostUp(have), host, show); err != nil || !have.CutOff {
		return err
	}
	return e.showPassages(show)
}

// mayReplaceBridge refuses to take the bridge away from VMs that are on it.
func (e *Engine) mayReplaceBridge(host spec.Host) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, name := range e.running() {
		if r := e.vms[name].record; r.Host.Bridge != host.Bridge || r.Host.Subnet != host.Subnet {
			return fmt.Errorf("%w: the VM %s is still on the bridge %s of the spec before: `bield down %s` first", ErrConflict, name, r.Host.Bridge, name)
		}
	}
	return nil
}

// address is the host's own on the bridge.
func address(host spec.Host) netip.Prefix {
	return netip.PrefixFrom(host.Gateway(), host.Subnet.Bits())
}

// hostDown takes back what was changed on the host, once no VM has a record.
func (e *Engine) hostDown(ctx context.Context, show func(Progress)) error {
	e.hostMu.Lock()
	defer e.hostMu.Unlock()
	e.mu.Lock()
	used := len(e.running()) > 0
	e.mu.Unlock()
	if used {
		return nil
	}
	have, err := e.observeHost(ctx, spec.Host{})
	if err != nil {
		return err
	}
	return e.hostSteps(ctx, plan.HostDown(have), spec.Host{}, show)
}

func (e *Engine) hostSteps(ctx context.Context, steps []plan.Step, host spec.Host, show func(Progress)) error {
	act := func(ctx context.Context, step plan.Step) error { return e.hostAct(ctx, step, host) }
	for _, step := range steps {
		if err := e.perform(ctx, step, act, show); err != nil {
			return err
		}
	}
	return nil
}

// hostAct carries out a step of the host; what is taken back, its record knows.
func (e *Engine) hostAct(ctx context.Context, step plan.Step, host spec.Host) error {
	switch step.Kind {
	case plan.AddBridge:
		return e.addBridge(ctx, host)
	case plan.SetForwarding:
		return e.setForwarding()
	case plan.StartEgress:
		return e.startEgress(ctx, host)
	case plan.StopEgress:
		return e.stopEgress(ctx)
	case plan.OpenPassage:
		return e.openPassage(ctx, host)
	case plan.ClosePassage:
		return e.closePassage(ctx)
	case plan.RemoveFirewall:
		return e.removeFirewall(ctx)
	case plan.RestoreForwarding:
		return e.restoreForwarding()
	case plan.RemoveBridge:
		return e.removeBridge(ctx)
	default:
		return fmt.Errorf("step %q is not known", step.Kind)
	}
}

// host is the applied spec's host.
func (e *Engine) host() spec.Host {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.applied.Host
}

// hostRecord is the host's record. It needs e.hostMu.
func (e *Engine) hostRecord() (HostRecord, error) {
	if e.noted == nil {
		record, err := loadHost(e.Run)
		if err != nil {
			return record, err
		}
		e.noted = &record
	}
	return *e.noted, nil
}

// changeHost edits the host's record, on disk and then in memory. It needs
// e.hostMu.
func (e *Engine) changeHost(edit func(*HostRecord)) error {
	record, err := e.hostRecord()
	if err != nil {
		return err
	}
	was := record
	if edit(&record); reflect.DeepEqual(was, record) {
		return nil
	}
	e.at("before the record of the host")
	err = saveHost(e.Run, record)
	e.at("after the record of the host")
	if err == nil {
		e.noted = &record
	}
	return err
}

// dropHost edits the host's record after something was taken away: see job.drop.
func (e *Engine) dropHost(edit func(*HostRecord)) error {
	err := e.changeHost(edit)
	if err != nil && e.noted != nil {
		e.Log.Warn("record of the host", "error", err)
		edit(e.noted)
		return nil
	}
	return err
}

func (e *Engine) bridge(name string, address netip.Prefix) network.Bridge {
	return network.Bridge{Name: name, Address: address, Owner: e.Run.Owner()}
}

func (e *Engine) addBridge(ctx context.Context, host spec.Host) error {
	record, err := e.hostRecord()
	if err != nil {
		return err
	}
	if record.Bridge != "" && record.Bridge != host.Bridge {
		return fmt.Errorf("%w: bridge %s of the spec before could not be removed: `bield down --all` tries again", ErrConflict, record.Bridge)
	}
	note := func(r *HostRecord) { r.Bridge, r.Address = host.Bridge, address(host) }
	if err := e.changeHost(note); err != nil {
		return err
	}
	_, err = network.EnsureBridge(ctx, e.bridge(host.Bridge, address(host)))
	return err
}

// removeBridge deletes the bridge if it carries bield's mark: one that was
// there before stays.
func (e *Engine) removeBridge(ctx context.Context) error {
	record, err := e.hostRecord()
	if err != nil {
		return err
	}
	if err := network.RemoveBridge(ctx, e.bridge(record.Bridge, record.Address)); err != nil {
		return err
	}
	return e.dropHost(func(r *HostRecord) { r.Bridge, r.Address = "", netip.Prefix{} })
}

// setForwarding notes the old value before it changes anything.
func (e *Engine) setForwarding() error {
	was, err := network.Forwarding()
	if err != nil {
		return err
	}
	if err := e.changeHost(func(r *HostRecord) { r.Forwarding = &was }); err != nil {
		return err
	}
	return network.SetForwarding(true)
}

func (e *Engine) restoreForwarding() error {
	record, err := e.hostRecord()
	if err != nil {
		return err
	}
	if record.Forwarding != nil {
		if err := network.SetForwarding(*record.Forwarding); err != nil {
			return err
		}
	}
	return e.dropHost(func(r *HostRecord) { r.Forwarding = nil })
}

// syncFirewall makes the rules those of the VMs that their records let in.
func (e *Engine) syncFirewall(ctx context.Context) error {
	e.hostMu.Lock()
	defer e.hostMu.Unlock()
	if err := e.changeHost(func(r *HostRecord) { r.Firewall = true }); err != nil {
		return err
	}
	var told error
	if e.egressLives() {
		told = e.pushEgress(ctx)
	}
	return errors.Join(firewall.Set(ctx, e.firewallConfig()), e.isolateTaps(ctx), told)
}

// firewallConfig needs e.hostMu.
func (e *Engine) firewallConfig() firewall.Config {
	var ports firewall.Ports
	if e.noted != nil && e.noted.Egress != nil {
		ports = e.noted.Egress.Ports
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	host := e.applied.Host
	var vms []firewall.VM
	for _, name := range e.running() {
		if r := e.vms[name].record; r.Firewall {
			// All VMs with rules are on one bridge, at times that of the spec before.
			host.Bridge, host.Subnet, host.Nameservers = r.Host.Bridge, r.Host.Subnet, r.Host.Nameservers
			vms = append(vms, firewall.VM{Tap: r.VM.Tap(), MAC: r.VM.MAC, IP: r.VM.IP, Egress: r.VM.Egress})
		}
	}
	return firewall.Config{
		Owner:             e.Run.Owner(),
		Bridge:            host.Bridge,
		Gateway:           host.Gateway(),
		Subnet:            host.Subnet,
		ExternalInterface: host.ExternalInterface,
		TrustBridge:       host.TrustBridge,
		HostPorts:         host.HostPorts,
		GuestToGuest:      host.GuestToGuest,
		Ports:             ports,
		Nameservers:       host.Nameservers,
		VMs:               vms,
	}
}

func (e *Engine) removeFirewall(ctx context.Context) error {
	if err := firewall.Remove(ctx, e.Run.Owner()); err != nil {
		return err
	}
	return e.dropHost(func(r *HostRecord) { r.Firewall = false })
}
