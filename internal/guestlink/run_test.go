package guestlink

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// runIn runs a program of 100 kB in a guest that does as play says once it has
// taken the program.
func runIn(ctx context.Context, t *testing.T, input io.Reader, play func(st *Stream)) (Exit, string, error) {
	t.Helper()
	host, guest := socketPair(t)
	h, g := connect(t, host, guest)
	image := bytes.Repeat([]byte("program\n"), 12_800)
	done := make(chan struct{})
	go func() {
		defer close(done)
		st, err := g.Accept(ctx)
		if err != nil {
			return
		}
		defer st.Close()
		var order Run
		if err := st.Decode(&order); err != nil || order.Name != "p" || order.Size != len(image) {
			t.Errorf("order %+v: %v", order, err)
		}
		_ = st.Answer(nil, nil)
		got := make([]byte, order.Size)
		if _, err := io.ReadFull(st, got); err != nil || !bytes.Equal(got, image) {
			t.Errorf("the program did not arrive: %v", err)
		}
		play(st)
	}()
	var out bytes.Buffer
	exit, err := h.Run(ctx, Program{Name: "p", Image: image, Input: input, MaxOutput: 64 << 10}, func(b []byte) error {
		out.Write(b)
		return nil
	})
	_ = h.Close()
	<-done
	return exit, out.String(), err
}

func TestRunPassesInputAndOutput(t *testing.T) {
	input := strings.Repeat("orders\n", 5000)
	exit, out, err := runIn(testContext(t), t, strings.NewReader(input), func(st *Stream) {
		_ = st.Answer(nil, nil)
		for {
			kind, data, err := st.ReadChunk()
			if err != nil || kind == ChunkInputEnd {
				break
			}
			_ = st.WriteChunk(ChunkOutput, bytes.ToUpper(data))
		}
		_ = st.WriteChunk(ChunkErrors, []byte("it is\x1b[2J\nbad"))
		_ = st.WriteExit(Exit{Code: 3})
	})
	if err != nil || out != strings.ToUpper(input) {
		t.Fatalf("%d bytes, %v", len(out), err)
	}
	if got := exit.Err(); got == nil || got.Error() != "ended with exit status 3: it is[2J bad" {
		t.Errorf("exit: %v", got)
	}
}

func TestRunHostile(t *testing.T) {
	header := func(kind byte, length uint32) []byte { return binary.BigEndian.AppendUint32([]byte{kind}, length) }
	cases := map[string]struct {
		play func(st *Stream)
		want error
	}{
		"endless": {func(st *Stream) {
			for st.WriteChunk(ChunkOutput, make([]byte, 8<<10)) == nil {
				continue
			}
		}, ErrOutput},
		"endless errors": {func(st *Stream) {
			for st.WriteChunk(ChunkErrors, make([]byte, 8<<10)) == nil {
				continue
			}
		}, ErrOutput},
		"long chunk":   {func(st *Stream) { _, _ = st.Write(header('o', 1<<31)) }, errProtocol},
		"unknown kind": {func(st *Stream) { _, _ = st.Write(header('?', 0)) }, errProtocol},
		"no exit":      {func(st *Stream) { _ = st.WriteChunk(ChunkOutput, []byte("x")) }, io.ErrUnexpectedEOF},
		"half a chunk": {func(st *Stream) { _, _ = st.Write(header('o', 9)) }, io.ErrUnexpectedEOF},
		"bad exit":     {func(st *Stream) { _ = st.WriteChunk(ChunkExit, []byte("0")) }, errLine},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, _, err := runIn(testContext(t), t, strings.NewReader(""), func(st *Stream) {
				_ = st.Answer(nil, nil)
				c.play(st)
			})
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestRunRefused(t *testing.T) {
	_, _, err := runIn(testContext(t), t, strings.NewReader(""), func(st *Stream) { _ = st.Answer(errors.New("no\x1b memory"), nil) })
	if _, ok := errors.AsType[*GuestError](err); !ok || err.Error() != "guest: run: no memory" {
		t.Errorf("got %v", err)
	}
}

func TestRunEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(testContext(t), 100*time.Millisecond)
	defer cancel()
	never, w := io.Pipe()
	defer w.Close()
	_, _, err := runIn(ctx, t, never, func(st *Stream) {
		_ = st.Answer(nil, nil)
		_, _, _ = st.ReadChunk() // ends with the stream
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestRunTooLarge(t *testing.T) {
	host, guest := socketPair(t)
	h, _ := connect(t, host, guest)
	_, err := h.Run(testContext(t), Program{Name: "p", Image: make([]byte, MaxProgram+1)}, nil)
	if err == nil || !strings.Contains(err.Error(), "the limit is") {
		t.Errorf("got %v", err)
	}
}
