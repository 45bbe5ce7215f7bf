package reconcile

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"bield/internal/guestlink"
	"bield/internal/spec"
)

const (
	// maxEventsBytes bounds the event log; as much again is kept of what was
	// before: some 400 boots in all.
	maxEventsBytes = 1 << 20
	// maxEventMessage bounds what one event says.
	maxEventMessage = 4 << 10
	// maxEventLine bounds a line of the log: a message, and names and paths.
	maxEventLine = 32 << 10
)

// eventLog keeps events as lines of JSON. Who writes never waits for who reads.
type eventLog struct {
	log *boundedLog

	mu   sync.Mutex
	seq  uint64 // of the newest event
	torn bool   // the log's last line may have no end
}

// openEventLog goes on in the log that an earlier daemon wrote.
func openEventLog(ctx context.Context, path string) (*eventLog, error) {
	log, err := openBoundedLog(path, maxEventsBytes, false)
	if err != nil {
		return nil, err
	}
	l := &eventLog{log: log}
	lines := &eventLines{take: func(e spec.Event) error { l.seq = max(l.seq, e.Seq); return nil }}
	if err := log.copyTo(ctx, lines); err != nil {
		log.Close()
		return nil, err
	}
	l.torn = len(lines.partial) > 0
	return l, nil
}

// add gives an event its time and number and writes it down. An event that
// finds no room on the disk is lost.
func (l *eventLog) add(e spec.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	e.Time, e.Seq = time.Now().UTC(), l.seq
	e.Message = guestlink.CleanText(strings.ReplaceAll(e.Message, "\n", " / "), maxEventMessage)
	line, err := json.Marshal(e)
	if err != nil {
		return
	}
	if l.torn {
		line = slices.Insert(line, 0, '\n')
	}
	l.torn = !l.log.add(append(line, '\n'))
}

// newest is the number of the newest event.
func (l *eventLog) newest() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seq
}

// eventLines takes the log's bytes and passes on the events. A line that is
// none, since a full disk or a killed daemon cut it off, is left out.
type eventLines struct {
	take    func(spec.Event) error
	partial []byte
	long    bool // the rest of a line that is too long is skipped
}

func (l *eventLines) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte("\n"))
		rest = after
		if l.long = l.long || len(l.partial)+len(line) > maxEventLine; !l.long {
			l.partial = append(l.partial, line...)
		}
		if !ended {
			break
		}
		if err := l.end(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// end passes on the line that is whole now.
func (l *eventLines) end() error {
	line, long := l.partial, l.long
	l.partial, l.long = l.partial[:0], false
	if e, ok := parseEvent(line); ok && !long {
		return l.take(e)
	}
	return nil
}

func parseEvent(line []byte) (e spec.Event, ok bool) {
	err := json.Unmarshal(line, &e)
	return e, err == nil && e.Seq > 0
}
