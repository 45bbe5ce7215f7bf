package reconcile

import (
	"testing"

	"bield/internal/guestlink"
)

func TestGuestTellsItsStages(t *testing.T) {
	g := newGuest()
	_, changed := g.now()
	g.take(guestlink.Event{Seq: 1, Stage: guestlink.StageRoot, State: guestlink.StateDone})
	select {
	case <-changed:
	default:
		t.Error("nobody was told")
	}
	g.take(guestlink.Event{Seq: 3, Stage: guestlink.StageReady, State: guestlink.StateDone})
	// A new session tells all from the beginning.
	g.take(guestlink.Event{Seq: 1, Stage: guestlink.StageRoot, State: guestlink.StateDone})
	at, _ := g.now()
	if !at.ready || at.stage != guestlink.StageReady || at.failure != "" {
		t.Errorf("got %+v", at)
	}
	g.take(guestlink.Event{Seq: 4, Stage: guestlink.StageSSHD, State: guestlink.StateFailed, Message: "it broke"})
	if at, _ := g.now(); at.failure != "it broke" {
		t.Errorf("got %+v", at)
	}
}
