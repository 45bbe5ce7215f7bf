package reconcile

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"bield/internal/plan"
	"bield/internal/spec"
)

// EventQuery asks for events.
type EventQuery struct {
	// Follow goes on with those to come.
	Follow bool
	// After leaves out the events up to this number.
	After uint64
	// Since leaves out those of the past before that time: what happens from
	// now on is shown whatever the clock says.
	Since time.Time
	// Tail is how many of the past are wanted at most; negative means all.
	Tail int
	// VMs are the names wanted; none means all, and the host's own events.
	VMs []string
}

// EventSink is where events go. An error of either call ends the reading.
type EventSink struct {
	Show func(spec.Event) error
	// CaughtUp is called each time when all that happened was shown.
	CaughtUp func() error
}

// Events shows what happened on this host, oldest first. What events of a VM
// say in words is for its user and root.
func (e *Engine) Events(ctx context.Context, caller Caller, query EventQuery, sink EventSink) error {
	if query.After > e.events.newest() {
		query.After = 0 // it was counted in a run directory that is gone
	}
	r := &eventReader{query: query, caller: caller, sink: sink}
	return e.events.log.follow(ctx, &eventLines{take: r.take}, r.caughtUp)
}

// eventReader shows one caller the events that they asked for.
type eventReader struct {
	query  EventQuery
	caller Caller
	sink   EventSink
	past   []spec.Event // the last of what happened before; unused once live
	live   bool
}

func (r *eventReader) take(e spec.Event) error {
	if !r.query.wants(e) || !r.live && e.Time.Before(r.query.Since) {
		return nil
	}
	if mine := e.VM == "" || r.caller.Root() || e.Owner != nil && *e.Owner == r.caller.UID; !mine {
		e.Message = ""
	}
	if r.live || r.query.Tail < 0 {
		return r.sink.Show(e)
	}
	r.past = append(r.past, e)
	if len(r.past) > r.query.Tail {
		r.past = r.past[1:]
	}
	return nil
}

func (r *eventReader) caughtUp() error {
	for _, e := range r.past {
		if err := r.sink.Show(e); err != nil {
			return err
		}
	}
	r.past, r.live = nil, true
	if err := r.sink.CaughtUp(); err != nil {
		return err
	}
	if !r.query.Follow {
		return errEnough
	}
	return nil
}

func (q EventQuery) wants(e spec.Event) bool {
	return e.Seq > q.After && (len(q.VMs) == 0 || slices.Contains(q.VMs, e.VM))
}

// note writes an event down, with the VM's user. It must not be called with
// e.mu held.
func (e *Engine) note(event spec.Event) {
	if event.VM != "" {
		event.Owner = e.owner(event.VM)
	}
	e.events.add(event)
}

// owner is the uid of a VM's user, nil for a VM that nothing is known of.
func (e *Engine) owner(name string) *uint32 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if m := e.vms[name]; m != nil && m.record != nil {
		return new(m.record.VM.User.UID)
	}
	if vm, declared := e.applied.Host.VM(name); declared {
		return new(vm.User.UID)
	}
	return nil
}

// enter brings a VM into a state, and returns the event of it; known says that
// nothing changes.
func (e *Engine) enter(m *machine, s spec.State, failure string) (event spec.Event, known bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	event = spec.Event{Kind: spec.EventState, VM: m.name, State: string(s), Message: failure}
	now := time.Now()
	if m.state != s && !m.state.Lasting() && !m.entered.IsZero() {
		event.Elapsed = now.Sub(m.entered)
	}
	known = m.state == s && m.failure == failure
	if m.state != s {
		m.entered = now
	}
	m.state, m.failure = s, failure
	if !known {
		e.stir()
	}
	return event, known
}

// stepOver notes the end of a step, for events and metrics.
func (e *Engine) stepOver(step plan.Step, name string, began time.Time, err error) {
	event := spec.Event{Kind: spec.EventStep, VM: step.VM, Step: name, State: spec.EventDone, Elapsed: time.Since(began)}
	if err != nil {
		event.State, event.Message = spec.EventFailed, err.Error()
	}
	e.note(event)
	e.metrics.stepOver(step, event.Elapsed, err)
}

// noteApply says who applied which file, and which of its VMs they asked for.
func (e *Engine) noteApply(caller Caller, request UpRequest) {
	e.note(spec.Event{
		Kind: spec.EventApply, Origin: request.Origin, UID: &caller.UID,
		Message: fmt.Sprintf("%d VMs declared", len(request.Host.VMs)),
	})
}

// noteAdopted says what became of a VM that an earlier daemon left; err is why
// it was removed.
func (e *Engine) noteAdopted(m *machine, err error) {
	event := spec.Event{Kind: spec.EventAdopt, VM: m.name, State: spec.EventAdopted}
	if err != nil {
		event.State, event.Message = spec.EventRemoved, err.Error()
	}
	e.note(event)
}

func (e *Engine) noteStart() {
	e.note(spec.Event{Kind: spec.EventDaemon, State: spec.EventStarted, Message: fmt.Sprintf("bieldd %s, pid %d", e.Version, os.Getpid())})
}

// Ends notes that the daemon is about to end, and why.
func (e *Engine) Ends(reason string) {
	e.note(spec.Event{Kind: spec.EventDaemon, State: spec.EventEnds, Message: reason})
}
