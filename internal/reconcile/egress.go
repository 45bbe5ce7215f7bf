package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"time"

	"bield/internal/egress"
	"bield/internal/firewall"
	"bield/internal/network"
	"bield/internal/process"
	"bield/internal/spec"
	"bield/internal/state"
)

// EgressRecord is the note of the egress process; Process is nil until it runs.
type EgressRecord struct {
	Process *process.ID `json:"process,omitempty"`
	// Ports of the gateway's address are where it listens.
	Ports firewall.Ports `json:"ports"`
}

// EgressVerb is the argument with which bieldd is the egress process.
const EgressVerb = "egress"

// egressGrace is how long the egress process may take to end.
const egressGrace = 2 * time.Second

// startEgress starts the egress process in the place of what is left of an
// earlier one, and lets guests' packets go to it.
func (e *Engine) startEgress(ctx context.Context, host spec.Host) error {
	if err := e.stopEgress(ctx); err != nil {
		return err
	}
	// What it listens on is one a network namespace, too.
	if err := firewall.Free(ctx, e.Run.Owner()); err != nil {
		return err
	}
	if err := e.changeHost(func(r *HostRecord) { r.Egress = &EgressRecord{} }); err != nil {
		return err
	}
	sockets, err := egress.Open(ctx, host.Gateway(), e.Run.EgressSocket(), spec.EgressLogGroup)
	if err != nil {
		return err
	}
	defer sockets.Close()
	ports := firewall.Ports(sockets.Ports)
	if err := e.changeHost(func(r *HostRecord) { r.Egress = &EgressRecord{Ports: ports} }); err != nil {
		return err
	}
	p, err := process.Start(ctx, process.Command{
		Path: e.Self, Args: []string{EgressVerb}, UID: spec.EgressUID, GID: spec.EgressUID,
		Files: sockets.Files, LogPath: e.Run.EgressLog(), MaxFiles: egress.MaxFiles,
		Note: func(id process.ID) error {
			return e.changeHost(func(r *HostRecord) { r.Egress = &EgressRecord{Process: &id, Ports: ports} })
		},
	})
	if err != nil {
		return err
	}
	e.attendEgress(ctx, p)
	if err := e.pushEgress(ctx); err != nil {
		return err
	}
	record, err := e.hostRecord()
	if err != nil || !record.Firewall {
		return err
	}
	return firewall.Set(ctx, e.firewallConfig())
}

// stopEgress ends the egress process, this daemon's or the one that the record
// knows.
func (e *Engine) stopEgress(ctx context.Context) error {
	record, err := e.hostRecord()
	if err != nil || record.Egress == nil {
		return err
	}
	p, err := e.egressProcess(record)
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.egress = nil
	e.mu.Unlock()
	if p != nil {
		if err := p.Stop(ctx, egressGrace); err != nil {
			return err
		}
	}
	if err := errors.Join(state.Remove(e.Run.EgressSocket()), state.Remove(e.Run.EgressLog())); err != nil {
		return fmt.Errorf("remove the egress process's files: %w", err)
	}
	return e.dropHost(func(r *HostRecord) { r.Egress = nil })
}

// egressProcess finds it; nil when it is gone.
func (e *Engine) egressProcess(record HostRecord) (*process.Process, error) {
	e.mu.Lock()
	p := e.egress
	e.mu.Unlock()
	if p != nil || record.Egress.Process == nil {
		return p, nil
	}
	p, err := process.Adopt(*record.Egress.Process)
	if errors.Is(err, process.ErrGone) || errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return p, err
}

// adoptEgress takes over the process of an earlier daemon. One that is gone is
// started again with the host's other parts.
func (e *Engine) adoptEgress(ctx context.Context) error {
	e.hostMu.Lock()
	defer e.hostMu.Unlock()
	record, err := e.hostRecord()
	if err != nil || record.Egress == nil {
		return err
	}
	p, err := e.egressProcess(record)
	if err != nil || p == nil {
		return err
	}
	e.attendEgress(ctx, p)
	return nil
}

// attendEgress makes a process the engine's, and starts another when it ends
// although somebody needs it. Until then what it serves is refused.
func (e *Engine) attendEgress(ctx context.Context, p *process.Process) {
	e.mu.Lock()
	e.egress = p
	e.mu.Unlock()
	ctx = context.WithoutCancel(ctx)
	e.tasks.Go(func() {
		select {
		case <-p.Done():
		case <-e.closing:
			p.Release()
			return
		}
		for wait := e.RestartDelay; e.lostEgress(p); wait = min(2*wait, maxEgressPause) {
			e.Log.Error("the egress process ended: guests resolve no names until it runs again", "exit", p.Exit(), "log", process.TailLog(e.Run.EgressLog(), logTail))
			select {
			case <-time.After(wait):
			case <-e.closing:
				return
			}
			if !e.lostEgress(p) {
				return
			}
			if err := e.hostUp(ctx, e.host(), e.logProgress); err != nil {
				e.Log.Error("start the egress process again", "error", err)
			}
		}
	})
}

// maxEgressPause bounds the doubling pause between two tries.
const maxEgressPause = time.Minute

// lostEgress says that an egress process ended which VMs still need and which
// nobody has replaced.
func (e *Engine) lostEgress(p *process.Process) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.egress == p && len(e.running()) > 0
}

// egressLives says that the recorded process runs. It needs e.hostMu.
func (e *Engine) egressLives() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.egress != nil && !over(e.egress.Done())
}

// pushTimeout bounds the egress process's answer: it only takes notes.
const pushTimeout = 5 * time.Second

var errUntold = errors.New("tell the egress process what guests may reach")

// pushEgress hands the egress process its policy. What is not told stays closed.
func (e *Engine) pushEgress(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, pushTimeout, fmt.Errorf("the egress process does not answer within %s", pushTimeout))
	defer cancel()
	client := egress.NewClient(e.Run.EgressSocket())
	defer client.Close()
	if _, err := client.Set(ctx, e.egressPolicy()); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("%w: %w", errUntold, err)
	}
	return nil
}

func (e *Engine) egressPolicy() egress.Policy {
	e.mu.Lock()
	defer e.mu.Unlock()
	host := e.applied.Host
	p := egress.Policy{}
	for _, name := range e.running() {
		if r := e.vms[name].record; r.Firewall {
			host.Subnet, host.Nameservers = r.Host.Subnet, r.Host.Nameservers
			p.VMs = append(p.VMs, egress.VM{Name: r.VM.Name, IP: r.VM.IP, Egress: r.VM.Egress})
		}
	}
	p.Gateway, p.Subnet = host.Gateway(), host.Subnet
	for _, a := range host.Nameservers {
		p.Nameservers = append(p.Nameservers, netip.AddrPortFrom(a, 53))
	}
	return p
}

// isolateTaps holds the taps of VMs that run to guestToGuest.
func (e *Engine) isolateTaps(ctx context.Context) error {
	e.mu.Lock()
	var taps []network.Tap
	for _, name := range e.running() {
		if r := e.vms[name].record; r.Tap && r.Firewall {
			taps = append(taps, e.tapOf(*r))
		}
	}
	e.mu.Unlock()
	for _, tap := range taps {
		if err := network.IsolateTap(ctx, tap); err != nil && !errors.Is(err, network.ErrNoTap) {
			return err
		}
	}
	return nil
}

// tapOf is the tap of a VM's record. Needs e.mu.
func (e *Engine) tapOf(record Record) network.Tap {
	return network.Tap{
		Name: record.VM.Tap(), Bridge: record.Host.Bridge, Owner: e.Run.Owner(), MAC: record.VM.MAC,
		UID: record.UID, GID: record.UID, Queues: record.queues(), Peers: e.applied.Host.GuestToGuest,
	}
}

// EgressCheck says whether a VM may go somewhere, and why.
type EgressCheck struct {
	egress.Check
	Target string
}

// Denial is what was refused to a VM, as often as it was.
type Denial = egress.Denial

// EgressCheck asks the egress process about HOST or HOST:PORT.
func (e *Engine) EgressCheck(ctx context.Context, caller Caller, name, target string) (EgressCheck, error) {
	client, err := e.egressFor(caller, name)
	if err != nil {
		return EgressCheck{}, err
	}
	defer client.Close()
	check, err := client.Check(ctx, name, target)
	return EgressCheck{Check: check, Target: target}, err
}

// EgressLog shows what was refused to a VM, and with follow goes on until ctx,
// the VM or the egress process ends.
func (e *Engine) EgressLog(ctx context.Context, caller Caller, name string, follow bool, show func(Denial) error) error {
	client, err := e.egressFor(caller, name)
	if err != nil {
		return err
	}
	defer client.Close()
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	if follow {
		e.tasks.Go(func() { e.whileRuns(inner, name); cancel() })
	}
	err = client.Log(inner, name, follow, show)
	if inner.Err() != nil && ctx.Err() == nil {
		return nil // the VM has ended
	}
	return err
}

// whileRuns returns when the VM's run of now is over, or with ctx.
func (e *Engine) whileRuns(ctx context.Context, name string) {
	e.mu.Lock()
	r := e.hold(name).run
	e.mu.Unlock()
	if r == nil {
		return
	}
	select {
	case <-r.letGo:
	case <-ctx.Done():
	}
}

// egressFor is a client for what concerns a VM that runs and that the caller may
// use.
func (e *Engine) egressFor(caller Caller, name string) (*egress.Client, error) {
	m, err := e.user(caller, name)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case m.record == nil:
		return nil, fmt.Errorf("%w: VM %s does not run: the egress process knows only those that do (`bield up %s`)", ErrConflict, name, name)
	case e.egress == nil || over(e.egress.Done()):
		return nil, fmt.Errorf("%w: the egress process is just being started again", ErrConflict)
	}
	return egress.NewClient(e.Run.EgressSocket()), nil
}
