package spec

import (
	"net/netip"
	"time"
)

// State is the life-cycle state of a VM.
type State string

// The states of a VM. A VM that ended on its own account is down; failed
// means that bield had to end it, or that it ended with an error.
const (
	StateDown     State = "down"
	StateStarting State = "starting"
	StateRunning  State = "running"
	StateStopping State = "stopping"
	StateFailed   State = "failed"
	// StateRestarting is a VM that has ended by itself and waits to be started
	// again.
	StateRestarting State = "restarting"
)

// VMStatus is what is known of one VM: what `bield ls` shows.
type VMStatus struct {
	Name      string     `json:"name"`
	State     State      `json:"state"`
	Reason    string     `json:"reason,omitempty"` // why it failed
	IP        netip.Addr `json:"ip"`
	MAC       string     `json:"mac"`
	Tap       string     `json:"tap"`
	VCPU      int        `json:"vcpu"`
	MemoryMiB int        `json:"mem"`
	Workspace string     `json:"workspace"`
	// Since is when the guest became usable; nil unless running.
	Since *time.Time `json:"since,omitempty"`
	// RestartNeeded lists what differs from the spec until a restart.
	RestartNeeded []string `json:"restartNeeded,omitempty"`
	// Restarts is how often the VM was started again after it had ended by itself.
	Restarts int `json:"restarts,omitempty"`
	// NextStart is when that is to happen next; nil unless restarting.
	NextStart *time.Time `json:"nextStart,omitempty"`
	// Origin is the file that declares the VM.
	Origin      string `json:"origin,omitempty"`
	Hypervisor  string `json:"hypervisor,omitempty"`
	Accelerator string `json:"accelerator,omitempty"` // "kvm" or "tcg"
	// HypervisorWhy is a line for people: its version, and why it is that one.
	HypervisorWhy string `json:"hypervisorWhy,omitempty"`
	Image         string `json:"image,omitempty"` // digest
}

// States lists every state.
func States() []State {
	return []State{StateDown, StateStarting, StateRunning, StateStopping, StateFailed, StateRestarting}
}

// Lasting says that a VM stays in the state until something happens; in others
// it is on its way.
func (s State) Lasting() bool {
	return s == StateDown || s == StateRunning || s == StateFailed
}

// Observed is what is really there of bield's resources: the side of the
// comparison that the kernel and the records speak for.
type Observed struct {
	Bridge Part
	// OtherBridge says that a bridge of bield's stands that has another name or
	// address than the spec's.
	OtherBridge bool
	Forwarding  Part
	Firewall    Part
	// Egress is the process that serves guests' names: see EgressUID.
	Egress Part
	// CutOff says that another firewall stops guests' packets, Passage what bield
	// has opened in such firewalls.
	CutOff  bool
	Passage Part
	VMs     map[string]ObservedVM
	// Others says that VMs which the comparison is not about need the host's
	// parts.
	Others bool
}

// Part says how much of a resource is there.
type Part int

// A Partial resource has a record, but the kernel does not show it as it
// should be.
const (
	Absent Part = iota
	Partial
	Present
)

// ObservedVM is what is there of one VM.
type ObservedVM struct {
	// Record says that a record exists, so that something may be there.
	Record bool
	// Spec is what the VM was started with, and Host what its host was then;
	// nil without a record.
	Spec *VM
	Host *Host
	// Hypervisor is what it runs on; never auto.
	Hypervisor HypervisorKind
	// Image is the digest that it runs on.
	Image string
	// Firewall is Present when the kernel's rules are those that let this VM in.
	Firewall Part
	// Tap is Present when it is on the bridge.
	Tap Part
	// Shares holds the tags that were started; true means that it is served.
	Shares map[string]bool
	VMM    bool
	// Ready says that a command has run in the guest.
	Ready bool
}
