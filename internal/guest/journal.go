package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sync"

	"bield/internal/guestlink"
)

// maxJournal is how many events are kept for a host that connects; a boot has
// some twenty.
const maxJournal = 512

// journal holds the events since boot and wakes whoever sends them on.
type journal struct {
	mu      sync.Mutex
	events  []guestlink.Event
	acked   uint64
	changed chan struct{} // closed and renewed at every change
}

func newJournal() *journal { return &journal{changed: make(chan struct{})} }

// record notes one event; it never blocks.
func (j *journal) record(stage, state, message string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e := guestlink.Event{Seq: j.last() + 1, Uptime: uptime().Milliseconds(), Stage: stage, State: state, Message: message}
	if len(j.events) == maxJournal {
		j.events = append(j.events[:0], j.events[1:]...)
	}
	j.events = append(j.events, e)
	j.wake()
}

func (j *journal) last() uint64 {
	if len(j.events) == 0 {
		return 0
	}
	return j.events[len(j.events)-1].Seq
}

func (j *journal) wake() {
	close(j.changed)
	j.changed = make(chan struct{})
}

// after returns the events behind seq, and a channel that is closed when there
// may be more.
func (j *journal) after(seq uint64) ([]guestlink.Event, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, e := range j.events {
		if e.Seq > seq {
			return append([]guestlink.Event(nil), j.events[i:]...), j.changed
		}
	}
	return nil, j.changed
}

// has reports whether a stage has been in a state.
func (j *journal) has(stage, state string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.ContainsFunc(j.events, func(e guestlink.Event) bool { return e.Stage == stage && e.State == state })
}

// ack notes that a host has seen all events up to seq.
func (j *journal) ack(seq uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.acked = max(j.acked, min(seq, j.last()))
	j.wake()
}

// flushed waits until a host has seen everything, or ctx is done.
func (j *journal) flushed(ctx context.Context) {
	for {
		j.mu.Lock()
		done, changed := j.acked >= j.last(), j.changed
		j.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// save and loadJournal carry the events over to the service under systemd.
func (j *journal) save(path string) error {
	events, _ := j.after(0)
	b, err := json.Marshal(events)
	if err != nil {
		return fmt.Errorf("save the journal: %w", err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return fmt.Errorf("save the journal: %w", err)
	}
	return nil
}

func loadJournal(path string) (*journal, error) {
	j := newJournal()
	if err := readJSON(path, &j.events); err != nil {
		return j, fmt.Errorf("load the journal: %w", err)
	}
	return j, nil
}
