package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"bield/internal/cgroup"
	"bield/internal/hypervisor"
	"bield/internal/image"
	"bield/internal/process"
	"bield/internal/spec"
	"bield/internal/state"
)

// Errors that say what kind of refusal a call met.
var (
	ErrForbidden = errors.New("not permitted")
	ErrNotFound  = errors.New("not found")
	ErrConflict  = errors.New("in conflict")
)

// Options are what an Engine works with.
type Options struct {
	Run   state.Run
	Cache state.Cache
	// Self is bieldd's own program, which the egress process runs as well.
	Self string
	// InitBinary is the bield-init that becomes /init of every guest.
	InitBinary string
	// ProbeBinary is the bield-probe that a verification runs in a guest.
	ProbeBinary string
	// Virtiofsd finds the command that starts virtiofsd.
	Virtiofsd func(context.Context) ([]string, error)
	// Hypervisors are the VMMs of this host.
	Hypervisors hypervisor.Host
	// Cores is how many VMs may be started at a time.
	Cores int
	// BootTimeout bounds the time from the VMM's start to a usable guest.
	BootTimeout time.Duration
	// RestartDelay is the first pause before a VM that has ended by itself is
	// started again.
	RestartDelay time.Duration
	Log          *slog.Logger
	// Version is bieldd's, for the event of its start and for metrics.
	Version string
	// Hook, when set, is told of each point of each step as it is reached:
	// "before one: tap" and "after one: tap", and "amid one: tap" where the
	// step was written down and not done, or done and not struck out. Tests
	// kill the daemon there.
	Hook func(point string)
}

// at tells the hook.
func (o Options) at(point string) {
	if o.Hook != nil {
		o.Hook(point)
	}
}

// Progress is one thing that happened to a step.
type Progress struct {
	VM      string
	Step    string
	State   string // "start", "progress", "done", "failed"
	Message string
	Detail  string // the newest small thing within Message
	Elapsed time.Duration
}

// Engine holds one host. Its methods may be called at once.
type Engine struct {
	Options
	images  image.Store
	groups  *cgroup.Groups
	events  *eventLog
	metrics *metrics

	// hostMu guards what belongs to the host as a whole: bridge, forwarding,
	// firewall and their record.
	hostMu sync.Mutex
	noted  *HostRecord // nil until it is read

	// keysMu guards the making of SSH keys that VMs share.
	keysMu sync.Mutex

	// starts holds a place for each VM that is being started.
	starts chan struct{}

	// fateMu orders the writing of fates.
	fateMu sync.Mutex

	// acceptMu makes checking and replacing the applied spec one thing.
	acceptMu sync.Mutex

	// mu guards what follows. Nothing that can wait is done under it.
	mu      sync.Mutex
	applied Applied
	vms     map[string]*machine
	fates   map[string]Fate
	kvm     bool             // as it was found last
	egress  *process.Process // nil while there is none
	claims  map[string]int   // memory of VMs that are being started, in MiB
	// applying holds, for each file whose apply is under way, what is closed at
	// its end.
	applying map[string]chan struct{}
	tasks    sync.WaitGroup
	closing  chan struct{}
	changed  chan struct{} // closed and replaced when a VM's state changes
}

// machine is what the engine holds of one VM, running or not.
type machine struct {
	name string

	// Guarded by Engine.mu.
	queue    []*turn                 // of those who change the VM: the first does
	record   *Record                 // nil when nothing of the VM is there
	cancel   context.CancelCauseFunc // ends an up under way; nil when there is none
	pending  int                     // applies that were accepted and are not over
	downs    int                     // how often it was asked to stop
	state    spec.State
	failure  string    // why it failed
	entered  time.Time // when it came into state; zero if it was always there
	restarts int       // by policy
	run      *run
	retry    *retry // nil unless it waits to be started again
	// verifying says that a verification is under way: there is one at a time.
	verifying bool
}

// New returns an engine for the applied spec and the records that it finds.
// VMs that still run are taken over; what is left of others is removed.
func New(ctx context.Context, o Options) (*Engine, error) {
	for _, makeDirs := range []func() error{o.Run.Make, o.Cache.Make} {
		if err := makeDirs(); err != nil {
			return nil, err
		}
	}
	applied, err := loadApplied(o.Run)
	if err != nil {
		return nil, err
	}
	fates, err := loadFates(o.Run)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(o.Run.Sweep(), state.Folder{Dir: applied.Host.StateDir}.Sweep(spec.HostKeyFile)); err != nil {
		o.Log.Warn("remove what was half written", "error", err)
	}
	events, err := openEventLog(ctx, o.Run.Events())
	if err != nil {
		return nil, err
	}
	e := &Engine{
		Options: o, images: image.Store{Dir: o.Cache.Images(), Hook: o.Hook}, groups: &cgroup.Groups{Owner: cgroup.Owner(o.Run.Owner())}, applied: applied, fates: fates, events: events,
		vms: map[string]*machine{}, claims: map[string]int{}, applying: map[string]chan struct{}{}, starts: make(chan struct{}, max(1, o.Cores)), closing: make(chan struct{}),
		changed: make(chan struct{}),
	}
	e.kvm, _ = o.Hypervisors.KVM()
	e.metrics = newMetrics(e)
	e.noteStart()
	e.tasks.Go(e.sweepImages)
	e.tasks.Go(e.trimLogs)
	return e, e.adopt(ctx)
}

// Close ends the engine's own work. VMs go on running.
func (e *Engine) Close() {
	var runs []*run
	e.mu.Lock()
	close(e.closing)
	for _, m := range e.vms {
		if m.retry != nil {
			m.retry.timer.Stop()
		}
		if m.run != nil {
			runs = append(runs, m.run)
		}
	}
	e.mu.Unlock()
	for _, r := range runs {
		r.release()
	}
	e.tasks.Wait()
	e.events.log.Close()
}

// Idle says that nothing runs and nothing is being done.
func (e *Engine) Idle() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.vms {
		if m.record != nil || m.retry != nil || len(m.queue) > 0 {
			return false
		}
	}
	return true
}

// machine returns the holder of a VM of that name.
func (e *Engine) machine(name string) *machine {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.hold(name)
}

// hold needs e.mu.
func (e *Engine) hold(name string) *machine {
	m, ok := e.vms[name]
	if !ok {
		m = &machine{name: name, state: spec.StateDown}
		e.vms[name] = m
	}
	return m
}

// stir tells those who wait for a change. Needs e.mu.
func (e *Engine) stir() {
	close(e.changed)
	e.changed = make(chan struct{})
}

// user returns the holder of a VM that the caller may use.
func (e *Engine) user(caller Caller, name string) (*machine, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.allowed(caller, name)
}

// allowed is user. Needs e.mu.
func (e *Engine) allowed(caller Caller, name string) (*machine, error) {
	vm, declared := e.applied.Host.VM(name)
	m := e.vms[name]
	if m != nil && m.record != nil {
		vm, declared = m.record.VM, true
	}
	if !declared {
		return nil, fmt.Errorf("%w: this host knows no VM %q (`bield ls` lists them)", ErrNotFound, name)
	}
	if !caller.mayUse(vm) {
		return nil, fmt.Errorf("%w: VM %s is of the user %s: only they and root may use it", ErrForbidden, name, vm.User.Name)
	}
	if m == nil {
		m = e.hold(name)
	}
	return m, nil
}

// setState notes where a VM is in its life, and why.
func (e *Engine) setState(m *machine, s spec.State, failure string) {
	if event, known := e.enter(m, s, failure); !known {
		e.note(event)
	}
}

// List says what is known of every VM of the applied spec, and of those that
// run although the spec no longer has them. What is said of a VM in words is
// for its user and root: it may be the guest's own.
func (e *Engine) List(caller Caller) []spec.VMStatus {
	list := e.list()
	for i := range list {
		if _, err := e.user(caller, list[i].Name); err != nil {
			list[i].Reason, list[i].RestartNeeded = "", nil
		}
	}
	return list
}

func (e *Engine) list() []spec.VMStatus {
	known := e.digestsOfRunning() // not under the lock: it reads the host's package sources
	e.mu.Lock()
	defer e.mu.Unlock()
	list := make([]spec.VMStatus, 0, len(e.applied.Host.VMs))
	for _, vm := range e.applied.Host.VMs {
		s := e.status(vm)
		if m := e.vms[vm.Name]; m != nil {
			s.RestartNeeded = e.restartNeeded(vm, m, known)
		}
		list = append(list, s)
	}
	for name, m := range e.vms {
		if _, declared := e.applied.Host.VM(name); !declared && m.record != nil {
			list = append(list, e.status(m.record.VM))
		}
	}
	slices.SortFunc(list, func(a, b spec.VMStatus) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// status needs e.mu.
func (e *Engine) status(vm spec.VM) spec.VMStatus {
	s := spec.VMStatus{
		Name: vm.Name, State: spec.StateDown, IP: vm.IP, MAC: vm.MAC, Tap: vm.Tap(), VCPU: vm.EffectiveVCPU(e.kvm, e.Cores),
		MemoryMiB: vm.MemoryMiB, Workspace: vm.Workspace(),
	}
	m, ok := e.vms[vm.Name]
	if !ok {
		s.Origin = e.applied.Origins[vm.Name]
		return s
	}
	s.Origin = e.originOf(m)
	s.State, s.Reason, s.Restarts = m.state, m.failure, e.fates[vm.Name].Restarts
	if m.retry != nil {
		s.NextStart = &m.retry.at
	}
	if r := m.record; r != nil {
		s.IP, s.MAC, s.VCPU, s.MemoryMiB, s.Workspace = r.VM.IP, r.VM.MAC, r.VCPU, r.VM.MemoryMiB, r.VM.Workspace()
		s.Since, s.Image = r.Ready, r.Image
		c := r.Hypervisor
		s.Hypervisor, s.Accelerator, s.HypervisorWhy = string(c.Kind), c.Accelerator(), c.Why
	}
	return s
}
