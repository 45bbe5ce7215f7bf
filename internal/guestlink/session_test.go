package guestlink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// socketPair is two ends of a unix stream socket, which unlike net.Pipe
// buffers, as a virtio port and QEMU's socket do.
func socketPair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		t.Cleanup(func() { _ = ends[i].Close() })
	}
	return ends[0], ends[1]
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// connect makes a session over two ends.
func connect(t *testing.T, host, guest io.ReadWriteCloser) (*Session, *Session) {
	t.Helper()
	ctx := testContext(t)
	served := make(chan *Session, 1)
	go func() {
		s, err := Serve(ctx, guest)
		if err != nil {
			t.Errorf("serve: %v", err)
		}
		served <- s
	}()
	h, err := Dial(ctx, host)
	if err != nil {
		t.Fatal(err)
	}
	g := <-served
	if g == nil {
		t.FailNow()
	}
	t.Cleanup(func() { _, _ = h.Close(), g.Close() })
	return h, g
}

// echoGuest answers requests of kind "echo" with their own body.
func echoGuest(ctx context.Context, g *Session) {
	for {
		st, err := g.Accept(ctx)
		if err != nil {
			return
		}
		var body map[string]string
		err = st.Decode(&body)
		_ = st.Answer(err, body)
		_ = st.Close()
	}
}

func checkEcho(t *testing.T, h *Session) {
	t.Helper()
	var got map[string]string
	want := map[string]string{"a": strings.Repeat("x", 40_000)}
	if err := h.Request(testContext(t), "echo", want, &got); err != nil {
		t.Fatal(err)
	}
	if got["a"] != want["a"] {
		t.Fatalf("echo of %d bytes came back as %d", len(want["a"]), len(got["a"]))
	}
}

func TestSessionOverPipeAndSockets(t *testing.T) {
	ends := map[string]func(*testing.T) (net.Conn, net.Conn){
		"pipe":    func(*testing.T) (net.Conn, net.Conn) { return net.Pipe() },
		"sockets": socketPair,
	}
	for name, pair := range ends {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			h, g := connect(t, a, b)
			go echoGuest(t.Context(), g)
			for range 100 {
				checkEcho(t, h)
			}
			_ = h.Close()
			<-g.Done()
			if _, err := g.Accept(t.Context()); !errors.Is(err, ErrClosed) {
				t.Fatalf("accept after the end: %v", err)
			}
			if _, err := h.Open(t.Context(), "echo", nil); !errors.Is(err, ErrClosed) {
				t.Fatalf("open after the end: %v", err)
			}
		})
	}
}

func TestGuestRefusalIsCleaned(t *testing.T) {
	a, b := socketPair(t)
	h, g := connect(t, a, b)
	go func() {
		st, err := g.Accept(t.Context())
		if err != nil {
			return
		}
		_ = st.writeJSON(answerLine{Error: "no\x1b[2J\u202e way\nat all"})
		_ = st.Close()
	}()
	err := h.PowerOff(testContext(t))
	refusal, ok := errors.AsType[*GuestError](err)
	if !ok || refusal.Text != "no[2J way at all" || refusal.Kind != KindPowerOff {
		t.Fatalf("got %#v", err)
	}
}

func TestOpenEndsWithContext(t *testing.T) {
	a, b := socketPair(t)
	h, _ := connect(t, a, b) // nobody accepts, nobody answers
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := h.Request(ctx, "echo", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}

func TestHostDoesNotAccept(t *testing.T) {
	a, b := socketPair(t)
	h, g := connect(t, a, b)
	if _, err := h.Accept(t.Context()); err == nil {
		t.Fatal("host accepted")
	}
	_, _ = g.Open(t.Context(), "attack", nil)
	<-h.Done()
	if err := h.Err(); !errors.Is(err, errProtocol) {
		t.Fatalf("session ended with %v", err)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	a, b := socketPair(t)
	h, g := connect(t, a, b)
	ctx := testContext(t)
	go func() {
		for {
			if _, err := g.Accept(ctx); err != nil {
				return
			}
		}
	}()
	for i := range MaxStreams {
		if _, err := h.Open(ctx, "held", nil); err != nil {
			t.Fatalf("stream %d: %v", i, err)
		}
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := h.Open(short, "one too many", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}

func TestHeaderTooLongIsRefusedLocally(t *testing.T) {
	a, b := socketPair(t)
	h, _ := connect(t, a, b)
	if err := h.Authorize(testContext(t), []string{strings.Repeat("k", maxHeader)}); err == nil {
		t.Fatal("sent a header over the limit")
	}
}

func TestEventsReplayFollowAndAck(t *testing.T) {
	a, b := socketPair(t)
	h, g := connect(t, a, b)
	sent := []Event{
		{Seq: 1, Uptime: 10, Stage: StageModules, State: StateStarted},
		{Seq: 2, Uptime: 20, Stage: StageModules, State: StateDone},
		{Seq: 4, Uptime: 30, Stage: StageRoot, State: StateFailed, Message: "no\nroot\x07"},
	}
	acks := make(chan uint64, len(sent))
	go func() {
		st, err := g.Accept(t.Context())
		if err != nil {
			return
		}
		for _, e := range sent {
			_ = st.WriteEvent(e)
			ack, _ := st.ReadAck()
			acks <- ack.Seq
		}
		_ = st.Close()
	}()
	var got []Event
	var end error
	for e, err := range h.Events(testContext(t)) {
		if err != nil {
			end = err
			break
		}
		got = append(got, e)
	}
	sent[2].Message = "no root"
	if !slices.Equal(got, sent) || !errors.Is(end, io.EOF) {
		t.Fatalf("got %v, %v", got, end)
	}
	for _, e := range sent {
		if seq := <-acks; seq != e.Seq {
			t.Fatalf("acknowledged %d, want %d", seq, e.Seq)
		}
	}
}

// TestBreakStillAcks: a host that has seen enough has seen the last one too.
func TestBreakStillAcks(t *testing.T) {
	a, b := socketPair(t)
	h, g := connect(t, a, b)
	ack := make(chan Ack, 1)
	go func() {
		st, err := g.Accept(t.Context())
		if err != nil {
			return
		}
		_ = st.WriteEvent(Event{Seq: 7, Stage: StageReady, State: StateDone})
		got, _ := st.ReadAck()
		ack <- got
	}()
	for event, err := range h.Events(testContext(t)) {
		if err != nil || event.Seq != 7 {
			t.Errorf("got %+v, %v", event, err)
		}
		break
	}
	if got := <-ack; got.Seq != 7 {
		t.Fatalf("acknowledged %d", got.Seq)
	}
}

// TestReconnect kills either end of a session, half-way through frames too,
// and begins the next one over the same line.
func TestReconnect(t *testing.T) {
	for _, dies := range []string{"host", "guest", "both"} {
		for _, left := range []int{0, 1, 11, 12, 13, 500, maxFrame + headerSize - 1} {
			t.Run(fmt.Sprintf("%s leaves %d bytes of a frame", dies, left), func(t *testing.T) {
				reconnect(t, dies, left)
			})
		}
	}
}

func reconnect(t *testing.T, dies string, left int) {
	line := newLine(t)
	ctx, cancel := context.WithCancel(testContext(t))
	served := make(chan *Session)
	go serveLoop(ctx, line.guestEnd, served)
	defer func() {
		cancel()
		for range served {
		}
	}()
	h, err := Dial(ctx, line.hostEnd())
	if err != nil {
		t.Fatal(err)
	}
	g := <-served
	frame := make([]byte, maxFrame+headerSize)
	frame[7], frame[10] = 99, maxFrame>>8 // data for a stream nobody has
	if dies != "host" {
		_, _ = g.conn.Write(frame[:left])
		_ = g.conn.Close()
	}
	if dies != "guest" {
		_, _ = h.conn.Write(frame[:left])
		line.dropHost()
	}
	_ = h.Close() // a line takes one host at a time
	if h, err = Dial(ctx, line.hostEnd()); err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	go echoGuest(ctx, <-served)
	checkEcho(t, h)
}

func serveLoop(ctx context.Context, open func() io.ReadWriteCloser, served chan<- *Session) {
	defer close(served)
	for ctx.Err() == nil {
		s, err := Serve(ctx, open())
		if err != nil {
			continue
		}
		select {
		case served <- s:
		case <-ctx.Done():
		}
		select {
		case <-s.Done():
		case <-ctx.Done():
		}
		_ = s.Close()
	}
}
