package reconcile

import (
	"context"
	"errors"
	"testing"

	"bield/internal/spec"
)

func come(t *turn) bool {
	select {
	case <-t.come:
		return true
	default:
		return false
	}
}

func TestTurnsComeInOrder(t *testing.T) {
	e := testEngine(t)
	e.mu.Lock()
	first, second, third := e.queueUp("a", false), e.queueUp("a", true), e.queueUp("a", false)
	e.mu.Unlock()
	if !come(first) || come(second) || come(third) {
		t.Fatal("not the first alone")
	}
	e.leave(second) // before it has come
	if come(third) {
		t.Fatal("third before the first has left")
	}
	e.leave(first)
	if !come(third) {
		t.Fatal("the third has not come")
	}
	e.leave(third)
	if len(e.vms) != 0 {
		t.Errorf("%d machines are held of which there is nothing", len(e.vms))
	}
}

func TestTurnIsGivenUp(t *testing.T) {
	e := testEngine(t)
	first, err := e.acquire(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.acquire(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if n := len(first.m.queue); n != 1 {
		t.Errorf("%d in the queue", n)
	}
	e.leave(first)
}

func TestDownStopsWaitingStarts(t *testing.T) {
	e := testEngine(t)
	e.applied.Host.VMs = []spec.VM{{Name: "a"}}
	e.mu.Lock()
	before := e.queueUp("a", false)
	start := e.queueUp("a", true)
	down := e.queueDown([]string{"a"}, false)[0]
	after := e.queueUp("a", true)
	e.mu.Unlock()
	e.leave(before)
	work := func(context.Context, *job) error { return errors.New("worked") }
	if err := e.withVM(t.Context(), start, func(Progress) {}, work); !errors.Is(err, errStopped) {
		t.Errorf("before the down: %v", err)
	}
	e.leave(down)
	if err := e.withVM(t.Context(), after, func(Progress) {}, work); err == nil || errors.Is(err, errStopped) {
		t.Errorf("after it: %v", err)
	}
}
