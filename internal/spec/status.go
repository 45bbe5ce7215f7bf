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
	// Origin is the file that declares the VM.
	Origin      string `json:"origin,omitempty"`
	Hypervisor  string `json:"hypervisor,omitempty"`
	Accelerator string `json:"accelerator,omitempty"` // "kvm" or "tcg"
	Image       string `json:"image,omitempty"`       // digest
}

// Observed is what is really there of bield's resources: the side of the
// comparison that the kernel and the records speak for.
type Observed struct {
	Bridge     Part
	Forwarding Part
	Firewall   Part
	VMs        map[string]ObservedVM
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
