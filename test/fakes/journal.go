package fakes

import (
	"sync"
	"time"

	"bield/internal/guestlink"
)

// journal holds every event of a guest.
type journal struct {
	mu      sync.Mutex
	began   time.Time
	events  []guestlink.Event
	changed chan struct{} // closed and replaced at each event
}

func newJournal() *journal { return &journal{began: time.Now(), changed: make(chan struct{})} }

func (j *journal) note(stage, state, message string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.events = append(j.events, guestlink.Event{
		Seq: uint64(len(j.events) + 1), Uptime: time.Since(j.began).Milliseconds(),
		Stage: stage, State: state, Message: message,
	})
	close(j.changed)
	j.changed = make(chan struct{})
}

func (j *journal) after(n int) ([]guestlink.Event, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.events[n:], j.changed
}

// send writes all events and then each new one, until the host ends the stream.
func (j *journal) send(st *guestlink.Stream) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if _, err := st.ReadAck(); err != nil {
				return
			}
		}
	}()
	for sent := 0; ; {
		events, changed := j.after(sent)
		for _, e := range events {
			if st.WriteEvent(e) != nil {
				return
			}
			sent++
		}
		select {
		case <-changed:
		case <-ended:
			return
		}
	}
}
