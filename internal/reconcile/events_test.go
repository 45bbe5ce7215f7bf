package reconcile

import (
	"errors"
	"testing"
	"time"

	"bield/internal/plan"
	"bield/internal/spec"
)

// show reads the events of an engine as a caller gets them.
func show(t *testing.T, e *Engine, caller Caller) []spec.Event {
	t.Helper()
	var all []spec.Event
	err := e.Events(t.Context(), caller, EventQuery{Tail: -1}, EventSink{
		Show:     func(e spec.Event) error { all = append(all, e); return nil },
		CaughtUp: func() error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestEventsOfStates(t *testing.T) {
	e := testEngine(t)
	m := e.machine("a")
	e.setState(m, spec.StateDown, "") // as it was
	e.setState(m, spec.StateStarting, "")
	m.entered = m.entered.Add(-time.Minute)
	e.setState(m, spec.StateRunning, "")
	m.entered = m.entered.Add(-time.Hour)
	e.setState(m, spec.StateFailed, "the VMM ended")
	e.setState(m, spec.StateFailed, "and cannot be taken back")
	e.setState(m, spec.StateFailed, "and cannot be taken back")
	want := []struct {
		state, message string
		slow           bool
	}{
		{"starting", "", false}, {"running", "", true}, {"failed", "the VMM ended", false}, {"failed", "and cannot be taken back", false},
	}
	all := show(t, e, Caller{})
	if len(all) != len(want) {
		t.Fatalf("got %+v", all)
	}
	for i, w := range want {
		if got := all[i]; got.State != w.state || got.Message != w.message || (got.Elapsed >= time.Minute) != w.slow {
			t.Errorf("got %+v, want %+v", got, w)
		}
	}
}

// TestEventsOfOthers: what an event says in words is its VM's user's and root's.
func TestEventsOfOthers(t *testing.T) {
	e := testEngine(t)
	host := testHost(t.TempDir(), "hers")
	host.VMs[0].User.UID = alice
	e.applied.Host = host
	failure := errors.New("the guest said so")
	e.stepOver(plan.Step{Kind: plan.AwaitReady, VM: "hers"}, "ready", time.Now(), failure)
	e.stepOver(plan.Step{Kind: plan.AwaitReady, VM: "gone"}, "ready", time.Now(), failure)
	e.stepOver(plan.Step{Kind: plan.AddBridge}, "bridge", time.Now(), failure)
	for _, c := range []struct {
		caller Caller
		reads  []bool
	}{
		{Caller{}, []bool{true, true, true}},
		{aliceCalls, []bool{true, false, true}},
		{Caller{UID: alice + 1}, []bool{false, false, true}},
	} {
		for i, event := range show(t, e, c.caller) {
			if event.State != spec.EventFailed || (event.Message != "") != c.reads[i] {
				t.Errorf("uid %d gets %+v", c.caller.UID, event)
			}
		}
	}
}
