package guest

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"bield/internal/guestlink"
)

// fakePort is a port that takes one host after another.
type fakePort struct{ hosts chan net.Conn }

func newFakePort() *fakePort { return &fakePort{hosts: make(chan net.Conn)} }

func (p *fakePort) open(ctx context.Context) (io.ReadWriteCloser, error) {
	select {
	case c := <-p.hosts:
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *fakePort) dial(t *testing.T) *guestlink.Session {
	t.Helper()
	host, guest := net.Pipe()
	p.hosts <- guest
	s, err := guestlink.Dial(testContext(t), host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// serveLink runs a link that notes what it is asked for.
func serveLink(t *testing.T, j *journal) (port *fakePort, asked chan string) {
	t.Helper()
	port, asked = newFakePort(), make(chan string, 10)
	l := &link{open: port.open, close: func() {}, journal: j, start: startAwaited,
		powerOff: func(why string) { asked <- "poweroff: " + why },
		authorize: func(keys []string) error {
			if len(keys) == 0 {
				return errNoUser
			}
			if keys[0] == "panic" {
				panic("a fault")
			}
			asked <- "authorize: " + strings.Join(keys, " ")
			return nil
		}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); l.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return port, asked
}

func TestLinkReplaysToEveryHost(t *testing.T) {
	j := newJournal()
	port, _ := serveLink(t, j)
	j.record(guestlink.StageModules, guestlink.StateStarted, "")
	j.record(guestlink.StageModules, guestlink.StateDone, "")
	for round := range uint64(3) {
		s := port.dial(t)
		var got []uint64
		for e, err := range s.Events(testContext(t)) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, e.Seq)
			if e.Seq == 2+round {
				j.record(guestlink.StageRoot, guestlink.StateDone, "live")
			}
			if e.Seq == 3+round {
				break
			}
		}
		if want := []uint64{1, 2, 3, 4, 5}[:3+round]; !slices.Equal(got, want) {
			t.Fatalf("round %d: %v, want %v", round, got, want)
		}
		_ = s.Close()
	}
	flushed, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	j.flushed(flushed)
	if flushed.Err() != nil {
		t.Fatal("the host's acknowledgements did not arrive")
	}
}

func TestLinkRequests(t *testing.T) {
	port, asked := serveLink(t, newJournal())
	s, ctx := port.dial(t), testContext(t)
	if err := s.PowerOff(ctx); err != nil {
		t.Fatal(err)
	}
	if got := <-asked; got != "poweroff: the host asked for it" {
		t.Error(got)
	}
	if err := s.Authorize(ctx, []string{"a", "b"}); err != nil {
		t.Fatal(err)
	}
	if got := <-asked; got != "authorize: a b" {
		t.Error(got)
	}
	refused := map[string]error{
		"the user is not made yet": s.Authorize(ctx, nil),
		"panic: a fault":           s.Authorize(ctx, []string{"panic"}),
		"older than the host's":    s.Request(ctx, "exec", nil, nil),
		"no body":                  s.Request(ctx, guestlink.KindClock, nil, nil),
		"unusable line":            s.Request(ctx, guestlink.KindAuthorize, "keys", nil),
	}
	for want, err := range refused {
		if _, ok := errors.AsType[*guestlink.GuestError](err); !ok || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestJournalIsBoundedAndSaved(t *testing.T) {
	j := newJournal()
	for range maxJournal + 10 {
		j.record(guestlink.StageSSHD, guestlink.StateFailed, "again")
	}
	events, _ := j.after(0)
	if len(events) != maxJournal || events[0].Seq != 11 {
		t.Fatalf("%d events from %d", len(events), events[0].Seq)
	}
	path := filepath.Join(t.TempDir(), "events.json")
	if err := j.save(path); err != nil {
		t.Fatal(err)
	}
	k, err := loadJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	k.record(guestlink.StageReady, guestlink.StateDone, "")
	more, _ := k.after(events[len(events)-1].Seq)
	if len(more) != 1 || more[0].Seq != maxJournal+11 || !k.has(guestlink.StageReady, guestlink.StateDone) {
		t.Fatalf("went on with %+v", more)
	}
}

func TestFlushedGivesUp(t *testing.T) {
	j := newJournal()
	j.record(guestlink.StageRoot, guestlink.StateFailed, "x")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	j.flushed(ctx)
	if ctx.Err() == nil {
		t.Fatal("flushed without a host")
	}
	j.ack(1)
	j.flushed(t.Context())
}

func TestFindPort(t *testing.T) {
	root := fill(t, map[string]string{"/ports/vport0p1/name": "other\n", "/ports/vport0p2/name": "bield.link\n"})
	if got, err := findPort(root.at("/ports"), "bield.link"); got != "vport0p2" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := findPort(root.at("/ports"), "none"); err == nil {
		t.Error("found a port that is not there")
	}
}

func TestPowerButton(t *testing.T) {
	event := func(typ, code uint16, value int32) []byte {
		b := make([]byte, eventSize-8)
		return append(append(append(b, encode(typ)...), encode(code)...), encode(value)...)
	}
	stream := slices.Concat(event(evKey, keyPower, 1), event(0, 0, 0), event(evKey, keyPower, 0), event(evKey, 30, 1), event(evKey, keyPower, 1), []byte{1, 2})
	n := 0
	if err := readButton(strings.NewReader(string(stream)), func() { n++ }); err != nil || n != 2 {
		t.Errorf("%d presses, %v", n, err)
	}
}

// TestWaitForHostOnASocket: a socket hangs up when its peer is gone, as a port
// does; unlike one it never comes back.
func TestWaitForHostOnASocket(t *testing.T) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if !hostConnected(uintptr(fds[0])) {
		t.Error("not connected")
	}
	_ = syscall.Close(fds[1])
	if hostConnected(uintptr(fds[0])) {
		t.Error("connected to nobody")
	}
	_ = syscall.Close(fds[0])
}
