package fakes

import (
	"encoding/json"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// chEvents is the event monitor: pretty-printed objects with an empty line behind
// each (event_monitor/src/lib.rs). Whether anybody reads does not matter.
type chEvents struct {
	fault EventsFault
	ends  string
	fd    int // -1 for none
	began time.Time
	mu    sync.Mutex
}

type chEvent struct {
	Timestamp  chTimestamp       `json:"timestamp"`
	Source     string            `json:"source"`
	Event      string            `json:"event"`
	Properties map[string]string `json:"properties"`
}

// chTimestamp is the time since the start.
type chTimestamp struct {
	Secs  int64 `json:"secs"`
	Nanos int64 `json:"nanos"`
}

// newCHEvents takes the descriptor as it is: it becomes non-blocking for all that
// hold it.
func newCHEvents(fd int, faults VMMFaults) (*chEvents, error) {
	e := &chEvents{fault: faults.Events, ends: faults.Ends, fd: fd, began: time.Now()}
	if fd < 0 {
		return e, nil
	}
	return e, unix.SetNonblock(fd, true)
}

func (e *chEvents) tell(source, event string) { e.tellOf(source, event, nil) }

func (e *chEvents) tellOf(source, event string, properties map[string]string) {
	since := time.Since(e.began)
	text, err := json.MarshalIndent(chEvent{
		Timestamp: chTimestamp{int64(since / time.Second), int64(since % time.Second)},
		Source:    source, Event: event, Properties: properties,
	}, "", "  ")
	if err != nil {
		panic(err) // strings alone
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fault.tell(append(text, "\n\n"...), e.write)
	if e.ends == event {
		os.Exit(1)
	}
}

func (e *chEvents) write(text []byte) {
	if e.fd >= 0 {
		_, _ = unix.Write(e.fd, text)
	}
}
