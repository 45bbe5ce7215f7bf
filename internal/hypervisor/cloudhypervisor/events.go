package cloudhypervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxEvent bounds one event. A guest makes the VMM tell of its devices as often
// as it likes; what it tells of one is some hundred bytes.
const maxEvent = 16 << 10

// lastWords is how long after the VMM's end what it told may still be read.
const lastWords = time.Second

// event is one of the event monitor's. Only words that are known are ever used:
// a VMM that its guest has taken over may write anything.
type event struct {
	Source string `json:"source"`
	Event  string `json:"event"`
}

// makeFIFO makes the pipe that the VMM writes its events to. It has a name, so
// that a new daemon can read on, and is open for reading and writing at the VMM's
// end, so that a VMM without a reader meets no broken pipe.
func makeFIFO(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("remove the stale event pipe: %w", err)
	}
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, fmt.Errorf("make the event pipe: %w", err)
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the event pipe: %w", err)
	}
	// Wrapped while it blocks, so that Go does not make it block when it is passed
	// on: a full pipe is to lose events and to hold up nobody.
	f := os.NewFile(uintptr(fd), path)
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open the event pipe: %w", err)
	}
	return f, nil
}

// watch reads the events of one VMM for as long as the daemon holds it.
type watch struct {
	fifo *os.File
	over chan struct{} // closed when no more is read

	mu      sync.Mutex
	heard   map[event]bool
	changed chan struct{} // closed and replaced at each new event
}

// newWatch reads the pipe at path until stopped. onEvent is called for each.
func newWatch(path string, onEvent func(event)) (*watch, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open the event pipe: %w", err)
	}
	w := &watch{fifo: f, over: make(chan struct{}), heard: map[event]bool{}, changed: make(chan struct{})}
	go func() {
		defer close(w.over)
		readEvents(f, func(e event) {
			w.note(e)
			onEvent(e)
		})
	}()
	return w, nil
}

// stop ends the reading.
func (w *watch) stop() {
	_ = w.fifo.Close()
	<-w.over
}

// drain waits until all is read that an ended VMM has written: the pipe is at its
// end then.
func (w *watch) drain() {
	select {
	case <-w.over:
	case <-time.After(lastWords):
	}
}

// known are the events that mean something here.
func known() []event {
	return []event{
		{"vm", "booting"}, {"vm", "booted"}, {"vm", "shutdown"}, {"vm", "rebooting"}, {"vm", "rebooted"}, {"guest", "panic"},
	}
}

func (w *watch) note(e event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heard[e] = true
	close(w.changed)
	w.changed = make(chan struct{})
}

// has says whether an event has come.
func (w *watch) has(e event) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.heard[e]
}

// await waits for an event.
func (w *watch) await(ctx context.Context, e event) error {
	for {
		w.mu.Lock()
		there, changed := w.heard[e], w.changed
		w.mu.Unlock()
		if there {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// readEvents reads JSON objects one after another, with anything between them. A
// pipe that is full loses some, or the end of one.
func readEvents(r io.Reader, take func(event)) {
	s := newSplitter(r)
	for {
		object, err := s.next()
		if err != nil {
			return
		}
		var e event
		if json.Unmarshal(object, &e) != nil {
			continue
		}
		for _, k := range known() {
			if e == k {
				take(k)
			}
		}
	}
}

// splitter cuts a stream into JSON objects by their braces.
type splitter struct {
	r      io.Reader
	buffer []byte // read and not yet cut
	object []byte // of which the end has not come
	depth  int
	quoted bool // within a string
	escape bool // behind a backslash in one
}

func newSplitter(r io.Reader) *splitter { return &splitter{r: r} }

// next returns the bytes of an object; the error is the reader's.
func (s *splitter) next() ([]byte, error) {
	for {
		for i, b := range s.buffer {
			if s.add(b) {
				s.buffer = s.buffer[i+1:]
				object := s.object
				s.object = nil
				return object, nil
			}
		}
		chunk := make([]byte, 4096)
		n, err := s.r.Read(chunk)
		s.buffer = chunk[:n]
		if n == 0 && err != nil {
			return nil, err
		}
	}
}

// add takes one byte and says whether it ends an object.
func (s *splitter) add(b byte) bool {
	switch {
	case s.depth == 0 && b != '{':
		return false // between objects
	case b == '{' && bytes.HasSuffix(s.object, []byte("\n")):
		s.reset() // nothing within an object begins in the first column: the one before was cut off
	case len(s.object) >= maxEvent:
		s.reset()
		return false
	}
	s.object = append(s.object, b)
	switch {
	case s.escape:
		s.escape = false
	case s.quoted:
		s.escape, s.quoted = b == '\\', b != '"'
	case b == '"':
		s.quoted = true
	case b == '{':
		s.depth++
	case b == '}':
		s.depth--
	}
	return s.depth == 0
}

func (s *splitter) reset() {
	s.object, s.depth, s.quoted, s.escape = nil, 0, false, false
}

// errReset is the end of a VM whose guest has reset its machine. The VMM would
// boot it anew, with a root that is not forgotten in the host's books.
var errReset = errors.New("the guest reset its machine: its kernel panicked, or it was told to reboot")

// errKilled is the end of a VM by its host's will.
var errKilled = errors.New("the VMM was ended by force")
