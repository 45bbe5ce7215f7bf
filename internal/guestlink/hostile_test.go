package guestlink

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
)

// attack begins a session whose guest is attacker, which has done the
// handshake and now writes what it likes.
func attack(t *testing.T, attacker func(conn net.Conn)) *Session {
	t.Helper()
	a, b := socketPair(t)
	go func() {
		r := bufio.NewReader(b)
		if answer(b, r) != nil {
			return
		}
		go func() { _, _ = io.Copy(io.Discard, r) }()
		attacker(b)
	}()
	h, err := Dial(testContext(t), a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close(); _ = b.Close() })
	return h
}

func frame(typ byte, flags uint16, stream, length uint32) []byte {
	b := []byte{0, typ, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint16(b[2:], flags)
	binary.BigEndian.PutUint32(b[4:], stream)
	binary.BigEndian.PutUint32(b[8:], length)
	return b
}

func TestHostileFramesEndTheSession(t *testing.T) {
	attacks := map[string][]byte{
		"wrong version":     {1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"a hello of a twin": []byte("\n" + magic + "hello 00000000000000000000000000000000\n"),
		"unknown type":      frame(9, 0, 0, 0),
		"opens a stream":    frame(1, flagSYN, 2, 0),
		"giant frame":       frame(frameData, 0, 1, 1<<31),
		"ping flood":        bytes.Repeat(frame(framePing, flagSYN, 0, 1), 1000),
	}
	for name, bytes := range attacks {
		t.Run(name, func(t *testing.T) {
			h := attack(t, func(c net.Conn) { _, _ = c.Write(bytes) })
			select {
			case <-h.Done():
			case <-time.After(10 * time.Second):
				t.Fatal("session goes on")
			}
			if !errors.Is(h.Err(), errProtocol) || !errors.Is(h.Err(), ErrClosed) {
				t.Fatalf("ended with %v", h.Err())
			}
		})
	}
}

// TestFrameFloodIsSlowed: frames that are allowed one by one cost the sender
// more than the host.
func TestFrameFloodIsSlowed(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	g := newGuard(a, make(chan struct{}), hostSide)
	const frames = frameBurst + framePerSec/2 // half a second over the burst
	go func() {
		_, _ = b.Write(bytes.Repeat(frame(1, 0, 1, 0), frames))
		_ = b.Close()
	}()
	start := time.Now()
	if n, err := io.Copy(io.Discard, g); n != frames*headerSize || err != nil {
		t.Fatalf("passed %d bytes: %v", n, err)
	}
	if took := time.Since(start); took < 400*time.Millisecond {
		t.Fatalf("flood passed in %v", took)
	}
}

// hostileEvents is a guest whose answer to the events stream is raw bytes.
func hostileEvents(t *testing.T, answer func(st *Stream)) *Session {
	t.Helper()
	a, b := socketPair(t)
	h, g := connect(t, a, b)
	go func() {
		st, err := g.Accept(t.Context())
		if err != nil {
			return
		}
		answer(st)
		_ = st.Close()
	}()
	return h
}

func TestHostileEvents(t *testing.T) {
	good := `{"seq":1,"uptime":1,"stage":"root","state":"done"}` + "\n"
	tests := map[string]struct {
		send string
		want error
	}{
		"giant line":      {strings.Repeat("x", 10<<20), errLine},
		"giant message":   {`{"seq":1,"stage":"root","state":"done","message":"` + strings.Repeat("x", maxEventLine) + "\"}\n", errLine},
		"no JSON":         {"hello\n", errLine},
		"wrong type":      {`{"seq":"1"}` + "\n", errLine},
		"array":           {strings.Repeat("[", 4000) + "\n", errLine},
		"no stage":        {`{"seq":1,"state":"done"}` + "\n", errLine},
		"escape as stage": {`{"seq":1,"state":"done","stage":"\u001b[2J"}` + "\n", errLine},
		"unknown state":   {`{"seq":1,"state":"nice","stage":"root"}` + "\n", errLine},
		"negative uptime": {`{"seq":1,"uptime":-1,"state":"done","stage":"root"}` + "\n", errLine},
		"seq goes back":   {good + good, errProtocol},
		"cut off":         {good + good[:9], io.ErrUnexpectedEOF},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := hostileEvents(t, func(st *Stream) { _, _ = io.WriteString(st, tt.send) })
			var end error
			for _, err := range h.Events(testContext(t)) {
				end = err
			}
			if !errors.Is(end, tt.want) {
				t.Fatalf("ended with %v, want %v", end, tt.want)
			}
		})
	}
}

func TestEndlessEventsAreCounted(t *testing.T) {
	h := hostileEvents(t, func(st *Stream) {
		for i := range uint64(maxEvents + 10) {
			if st.WriteEvent(Event{Seq: i + 1, Stage: StageRoot, State: StateDone}) != nil {
				return
			}
		}
	})
	n, end := 0, error(nil)
	for _, err := range h.Events(testContext(t)) {
		if end = err; err == nil {
			n++
		}
	}
	if n != maxEvents || !errors.Is(end, errProtocol) {
		t.Fatalf("%d events, then %v", n, end)
	}
}

// TestFloodWithoutReader: a guest that writes to a stream nobody reads is held
// by the window.
func TestFloodWithoutReader(t *testing.T) {
	h := hostileEvents(t, func(st *Stream) {
		for {
			if _, err := st.Write(make([]byte, maxFrame)); err != nil {
				return
			}
		}
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	st, err := h.Open(testContext(t), KindEvents, nil)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // the attacker's time, not an event of ours
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
		t.Fatalf("heap grew by %d bytes", grown)
	}
	_ = st.Close()
	_ = h.Close()
}

func TestHandshakeGivesUp(t *testing.T) {
	guests := map[string]func(c net.Conn){
		"silent": func(net.Conn) {},
		"noisy": func(c net.Conn) {
			for {
				if _, err := c.Write(bytes.Repeat([]byte("junk"), 1000)); err != nil {
					return
				}
			}
		},
		"welcomes another nonce": func(c net.Conn) {
			for {
				if writeLine(c, "welcome", newNonce()) != nil {
					return
				}
			}
		},
	}
	for name, guest := range guests {
		t.Run(name, func(t *testing.T) {
			a, b := socketPair(t)
			done := make(chan struct{})
			go func() { defer close(done); guest(b) }()
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if _, err := Dial(ctx, a); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("got %v", err)
			}
			<-done
		})
	}
}

func TestHandshakeWithLostPeer(t *testing.T) {
	a, b := socketPair(t)
	_ = b.Close()
	if _, err := Dial(testContext(t), a); err == nil {
		t.Fatal("dialled a closed line")
	}
	a, b = socketPair(t)
	_ = a.Close()
	if _, err := Serve(testContext(t), b); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("got %v", err)
	}
}

func TestGuestScanIsBounded(t *testing.T) {
	junk := io.MultiReader(strings.NewReader(strings.Repeat("x\n", maxScan)), strings.NewReader("\n"+magic+"hello "+newNonce()+"\n"))
	err := answer(io.Discard, bufio.NewReaderSize(junk, scanLine))
	if !errors.Is(err, errNoHello) {
		t.Fatalf("got %v", err)
	}
}
