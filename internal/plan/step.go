package plan

import "fmt"

// Kind says what a step does.
type Kind string

// The kinds of steps, in the order in which a VM comes up and then in the
// order in which it goes.
const (
	MakeImage     Kind = "image"
	MakeKeys      Kind = "keys"
	AddBridge     Kind = "bridge"
	SetForwarding Kind = "forwarding"
	// OpenPassage lets guests through another firewall of the host.
	OpenPassage Kind = "passage"
	StartEgress Kind = "egress"
	SetFirewall Kind = "firewall"
	AddTap      Kind = "tap"
	StartShare  Kind = "share"
	StartVMM    Kind = "vmm"
	AwaitReady  Kind = "ready"
	// UpdateVM gives a running VM what can be changed while it runs.
	UpdateVM Kind = "update"

	StopVMM           Kind = "stop"
	StopShare         Kind = "stop share"
	RemoveTap         Kind = "remove tap"
	ClearFirewall     Kind = "remove from firewall"
	Forget            Kind = "forget"
	RemoveFirewall    Kind = "remove firewall"
	StopEgress        Kind = "stop egress"
	RestoreForwarding Kind = "restore forwarding"
	RemoveBridge      Kind = "remove bridge"
	ClosePassage      Kind = "remove passage"
)

// Step is one named change to the host.
type Step struct {
	Kind Kind
	// VM is the VM it is for; "" for the host itself.
	VM string
	// Share is the tag of the share, for StartShare and StopShare.
	Share string
	// Reason says why the step is needed.
	Reason string
}

// Name is what the step does to whom: "one: share workspace".
func (s Step) Name() string {
	subject := s.VM
	if subject == "" {
		subject = "host"
	}
	name := subject + ": " + string(s.Kind)
	if s.Share != "" {
		name += " " + s.Share
	}
	return name
}

// String is the step as a plan prints it.
func (s Step) String() string {
	if s.Reason == "" {
		return s.Name()
	}
	return fmt.Sprintf("%s (%s)", s.Name(), s.Reason)
}
