package spec

import "time"

// EventKind says what an event is about.
type EventKind string

// The kinds of events.
const (
	// EventState is a VM that comes into another state.
	EventState EventKind = "state"
	// EventStep is a step that is done or failed, of a VM or, with no VM, of
	// the host itself.
	EventStep EventKind = "step"
	// EventApply is a file that became part of the applied spec.
	EventApply EventKind = "apply"
	// EventAdopt is a VM that a new daemon found: taken over, or removed.
	EventAdopt EventKind = "adopt"
	// EventDaemon is the daemon's own start and end.
	EventDaemon EventKind = "daemon"
)

// The states of events that are not of the kind EventState.
const (
	EventDone    = "done"
	EventFailed  = "failed"
	EventAdopted = "adopted"
	EventRemoved = "removed"
	EventStarted = "started"
	EventEnds    = "ends"
)

// Event is one thing that happened on a host, as its event log keeps it.
type Event struct {
	Time time.Time `json:"time"`
	// Seq counts from 1 over all daemons of a run directory; a gap means that
	// events are lost.
	Seq  uint64    `json:"seq"`
	Kind EventKind `json:"kind"`
	VM   string    `json:"vm,omitempty"`
	// State is the state that a VM came into, or one of those above.
	State string `json:"state,omitempty"`
	// Step is the step's name, as `bield plan` prints it.
	Step string `json:"step,omitempty"`
	// Message is one line without control characters.
	Message string `json:"message,omitempty"`
	// Elapsed is how long a step took; of a state, how long the VM was on its
	// way to it.
	Elapsed time.Duration `json:"elapsed,omitempty"`
	// Origin is the file that was applied, and UID who asked for it.
	Origin string  `json:"origin,omitempty"`
	UID    *uint32 `json:"uid,omitempty"`
	// Owner is the VM's user: to others the message is not shown.
	Owner *uint32 `json:"owner,omitempty"`
}
