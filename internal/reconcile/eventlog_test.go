package reconcile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"bield/internal/spec"
)

func openEvents(t *testing.T, path string) *eventLog {
	t.Helper()
	l, err := openEventLog(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.log.Close)
	return l
}

// eventsOf reads what a log holds.
func eventsOf(t *testing.T, l *eventLog) []spec.Event {
	t.Helper()
	var all []spec.Event
	if err := l.log.copyTo(t.Context(), &eventLines{take: func(e spec.Event) error { all = append(all, e); return nil }}); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestEventLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.log")
	l := openEvents(t, path)
	message := strings.Repeat("x", maxEventMessage)
	const n = 4 * maxEventsBytes / maxEventMessage
	for range n {
		l.add(spec.Event{Kind: spec.EventState, VM: "a", Message: message})
	}
	var total int64
	for _, p := range []string{path, path + ".1"} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if total > 2*maxEventsBytes || total < maxEventsBytes {
		t.Errorf("%d bytes are kept", total)
	}
	all := eventsOf(t, l)
	for i, e := range all {
		if want := n - uint64(len(all)-1-i); e.Seq != want {
			t.Fatalf("event %d of %d has the number %d, want %d", i, len(all), e.Seq, want)
		}
	}
	if again := openEvents(t, path); again.newest() != n {
		t.Errorf("the next daemon goes on at %d, want %d", again.newest(), n)
	}
}

// TestEventLogOutlivesItsDaemon cuts lines off as a kill or a full disk does:
// the next event is whole, and numbers go on.
func TestEventLogOutlivesItsDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.log")
	l := openEvents(t, path)
	l.add(spec.Event{Kind: spec.EventState, VM: "a"})
	l.add(spec.Event{Kind: spec.EventState, VM: "b"})
	l.log.Close()
	for _, rest := range []string{`{"seq":99,"ki`, "not JSON\n", `{"seq":"x"}` + "\n", `{"kind":"state"}` + "\n" + strings.Repeat("y", maxEventLine+1)} {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(rest); err != nil {
			t.Fatal(err)
		}
		f.Close()
		l = openEvents(t, path)
		before := len(eventsOf(t, l))
		l.add(spec.Event{Kind: spec.EventState, VM: "c"})
		all := eventsOf(t, l)
		if last := all[len(all)-1]; len(all) != before+1 || last.VM != "c" || last.Seq != all[before-1].Seq+1 {
			t.Errorf("after %.20q: %+v", rest, all)
		}
		l.log.Close()
	}
}

// TestEventLogTorn writes while the disk takes nothing, and after.
func TestEventLogTorn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.log")
	l := openEvents(t, path)
	l.add(spec.Event{Kind: spec.EventState, VM: "a"})
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	good := l.log.file
	l.log.file = full
	l.add(spec.Event{Kind: spec.EventState, VM: "lost"})
	l.log.file = good
	full.Close()
	if _, err := good.WriteString(`{"seq":2,`); err != nil { // as far as it had got
		t.Fatal(err)
	}
	l.add(spec.Event{Kind: spec.EventState, VM: "b"})
	all := eventsOf(t, l)
	if len(all) != 2 || all[1].VM != "b" || all[1].Seq != 3 {
		t.Errorf("got %+v", all)
	}
}

func TestEventsHoldNothingToObey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.log")
	l := openEvents(t, path)
	l.add(spec.Event{Kind: spec.EventState, VM: "a", Message: "\x1b[2Jx\nb  failed\r\n\u009b31m\u202egnp\x00\xff\x7f"})
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Count(data, []byte("\n")) != 1 {
		t.Errorf("it made a line of its own: %q", data)
	}
	message := eventsOf(t, l)[0].Message
	if strings.ContainsFunc(message, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("got %q", message)
	}
	if want := "[2Jx / b failed / 31mgnp"; message != want {
		t.Errorf("got %q, want %q", message, want)
	}
}

// TestEventsFollow reads the past and what comes, over the change of the file,
// and by number and name.
func TestEventsFollow(t *testing.T) {
	e := testEngine(t)
	for i := range 10 {
		e.note(spec.Event{Kind: spec.EventState, VM: fmt.Sprintf("vm%d", i%2)})
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen, caught := make(chan uint64, 100), make(chan struct{})
	first := sync.OnceFunc(func() { close(caught) })
	done := make(chan error, 1)
	go func() {
		done <- e.Events(ctx, Caller{}, EventQuery{Follow: true, Tail: 2, VMs: []string{"vm1"}}, EventSink{
			Show:     func(e spec.Event) error { seen <- e.Seq; return nil },
			CaughtUp: func() error { first(); return nil },
		})
	}()
	<-caught
	if a, b := <-seen, <-seen; a != 8 || b != 10 || len(seen) != 0 {
		t.Errorf("of the past it shows %d and %d", a, b)
	}
	long := strings.Repeat("x", maxEventMessage)
	for i := range uint64(maxEventsBytes / maxEventMessage * 2) {
		e.note(spec.Event{Kind: spec.EventState, VM: "vm0"})
		e.note(spec.Event{Kind: spec.EventState, VM: "vm1", Message: long})
		if got, want := <-seen, 12+2*i; got != want {
			t.Fatalf("got %d, want %d", got, want)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestEventsNeverWait: somebody follows and does not read.
func TestEventsNeverWait(t *testing.T) {
	e := testEngine(t)
	e.note(spec.Event{Kind: spec.EventState, VM: "a"})
	stuck, free := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	var seen []uint64
	go func() {
		first := true
		done <- e.Events(t.Context(), Caller{}, EventQuery{Follow: true, Tail: -1}, EventSink{
			Show: func(e spec.Event) error {
				if first {
					first = false
					close(stuck)
					<-free
				}
				seen = append(seen, e.Seq)
				return nil
			},
			CaughtUp: func() error { return nil },
		})
	}()
	<-stuck
	const n = 20_000 // several times what the log holds
	for range n {
		e.note(spec.Event{Kind: spec.EventState, VM: "a", Message: strings.Repeat("x", 300)})
	}
	close(free)
	e.events.log.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !slices.IsSorted(seen) || seen[len(seen)-1] != n+1 {
		t.Errorf("it got %d events, the last %d", len(seen), seen[len(seen)-1])
	}
	if len(seen) == n+1 {
		t.Error("nothing was lost: the test tests nothing")
	}
}

func TestEventsOfANewRunDirectory(t *testing.T) {
	e := testEngine(t)
	e.note(spec.Event{Kind: spec.EventDaemon})
	n := 0
	err := e.Events(t.Context(), Caller{}, EventQuery{After: 500, Tail: -1}, EventSink{
		Show: func(spec.Event) error { n++; return nil }, CaughtUp: func() error { return nil },
	})
	if err != nil || n != 1 {
		t.Errorf("it shows %d events to who saw 500 of another: %v", n, err)
	}
}

func TestEventQuery(t *testing.T) {
	at := time.Now()
	for _, c := range []struct {
		query EventQuery
		live  bool
		want  bool
	}{
		{EventQuery{}, false, true}, {EventQuery{Since: at}, false, true},
		{EventQuery{Since: at.Add(1)}, false, false}, {EventQuery{Since: at.Add(1)}, true, true},
		{EventQuery{After: 6}, false, true}, {EventQuery{After: 7}, false, false}, {EventQuery{After: 7}, true, false},
		{EventQuery{VMs: []string{"b", "a"}}, false, true}, {EventQuery{VMs: []string{"b"}}, true, false},
	} {
		shown := false
		c.query.Tail = -1
		r := &eventReader{query: c.query, live: c.live, sink: EventSink{Show: func(spec.Event) error { shown = true; return nil }}}
		if err := r.take(spec.Event{Seq: 7, Time: at, VM: "a"}); err != nil || shown != c.want {
			t.Errorf("%+v: %t, %v", c, shown, err)
		}
	}
}

func FuzzEventLines(f *testing.F) {
	f.Add([]byte(`{"seq":1,"kind":"state"}`+"\n"), 3)
	f.Add([]byte("{\n{\"seq\":1}\n"), 0)
	f.Fuzz(func(t *testing.T, data []byte, at int) {
		read := func(chunks ...[]byte) (numbers []uint64) {
			l := &eventLines{take: func(e spec.Event) error { numbers = append(numbers, e.Seq); return nil }}
			for _, chunk := range chunks {
				if n, err := l.Write(chunk); n != len(chunk) || err != nil {
					t.Fatal(n, err)
				}
				if len(l.partial) > maxEventLine {
					t.Fatalf("%d bytes are held", len(l.partial))
				}
			}
			return numbers
		}
		at = min(max(at, 0), len(data))
		if whole, parts := read(data), read(data[:at], data[at:]); !slices.Equal(whole, parts) {
			t.Errorf("cut at %d: %v, whole: %v", at, parts, whole)
		}
	})
}
