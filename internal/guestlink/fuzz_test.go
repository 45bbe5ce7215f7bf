package guestlink

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func FuzzParseEvent(f *testing.F) {
	f.Add([]byte(`{"seq":1,"uptime":12,"stage":"root","state":"failed","message":"a\u001b[1mb"}`))
	f.Add([]byte(`{"seq":18446744073709551615}`))
	f.Add([]byte(`[[[[`))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := parseEvent(line)
		if err != nil {
			return
		}
		if e.Seq == 0 || e.Uptime < 0 || !stageName(e.Stage) {
			t.Fatalf("accepted %+v", e)
		}
		checkClean(t, e.Message)
	})
}

func FuzzCleanText(f *testing.F) {
	f.Add("a\x1b[2J\u202e\u0085\u2028\xff b")
	f.Fuzz(func(t *testing.T, s string) { checkClean(t, CleanText(s, maxMessage)) })
}

func checkClean(t *testing.T, s string) {
	t.Helper()
	if len(s) > maxMessage || !utf8.ValidString(s) {
		t.Fatalf("%d bytes, valid %v", len(s), utf8.ValidString(s))
	}
	if i := strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
		t.Fatalf("%q is not printable at %d", s, i)
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add([]byte(`{"kind":"authorize","body":{"keys":["a"]}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		h, err := parseHeader(line)
		if err == nil && (h.Kind == "" || len(h.Kind) > maxKind) {
			t.Fatalf("accepted kind %q", h.Kind)
		}
	})
}

func FuzzReadLine(f *testing.F) {
	f.Add([]byte("a\nb"), 3)
	f.Fuzz(func(t *testing.T, in []byte, limit int) {
		limit = min(max(limit, 0), 100)
		r := bufio.NewReaderSize(bytes.NewReader(in), 16)
		for {
			line, err := readLine(r, limit)
			if err != nil {
				return
			}
			if len(line) >= limit || bytes.IndexByte(line, '\n') >= 0 {
				t.Fatalf("line %q with limit %d", line, limit)
			}
		}
	})
}

// FuzzGuard checks that what passes is a prefix of what came, and that every
// whole frame of it keeps the rules.
func FuzzGuard(f *testing.F) {
	f.Add(append(frame(frameData, 0, 1, 3), "abc"...), 5)
	f.Add(frame(frameGoAway, 0, 0, 0), 1)
	f.Fuzz(func(t *testing.T, in []byte, chunk int) {
		chunk = min(max(chunk, 1), 64)
		g := newGuard(iotestChunks(in, chunk), make(chan struct{}), hostSide)
		out, _ := io.ReadAll(g)
		if !bytes.HasPrefix(in, out) {
			t.Fatal("changed the bytes")
		}
		for len(out) >= headerSize {
			body := 0
			if out[0] != 0 || out[1] >= frameGoAway || out[3]&flagSYN != 0 && out[1] != framePing {
				t.Fatalf("passed header %v", out[:headerSize])
			}
			if out[1] == frameData {
				body = int(out[8])<<24 | int(out[9])<<16 | int(out[10])<<8 | int(out[11])
			}
			if body > maxFrame {
				t.Fatalf("passed a frame of %d bytes", body)
			}
			out = out[min(headerSize+body, len(out)):]
		}
	})
}

func iotestChunks(b []byte, n int) io.Reader {
	var parts []io.Reader
	for len(b) > 0 {
		k := min(n, len(b))
		parts, b = append(parts, bytes.NewReader(b[:k])), b[k:]
	}
	return io.MultiReader(parts...)
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte("\n\n" + magic + "hello 00112233445566778899aabbccddeeff\n" + magic + "go 00112233445566778899aabbccddeeff\nrest"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bufio.NewReaderSize(bytes.NewReader(in), scanLine)
		if answer(io.Discard, r) == nil && !bytes.Contains(in, []byte(magic+"go ")) {
			t.Fatal("began without a go")
		}
	})
}

func TestBucketRefills(t *testing.T) {
	now := time.Unix(0, 0)
	b := bucket{level: 1, burst: 1, perSec: 2, last: now}
	if !b.take(now) || b.take(now) {
		t.Fatal("burst of one")
	}
	if b.debt() != 500*time.Millisecond {
		t.Fatalf("debt %v", b.debt())
	}
	if !b.take(now.Add(time.Second)) {
		t.Fatal("not refilled")
	}
}

// FuzzReadOutput checks that no more is taken of a program's output than it may
// have, whatever comes.
func FuzzReadOutput(f *testing.F) {
	f.Add([]byte("o\x00\x00\x00\x03abce\x00\x00\x00\x01!x\x00\x00\x00\x0a{\"code\":1}"), 4)
	f.Add([]byte("x\x00\x00\x00\x1b{\"signal\":\"SIG\\u001bKILL\"}"), 0)
	f.Add([]byte("o\xff\xff\xff\xff"), 10)
	f.Fuzz(func(t *testing.T, in []byte, limit int) {
		limit = min(max(limit, 0), 1<<16)
		st := &Stream{r: bufio.NewReaderSize(bytes.NewReader(in), 16)}
		taken := 0
		exit, err := st.readOutput(limit, func(b []byte) error {
			taken += len(b)
			return nil
		})
		if taken > limit {
			t.Fatalf("took %d bytes with limit %d", taken, limit)
		}
		if err == nil {
			checkClean(t, exit.Signal)
			checkClean(t, exit.Errors)
		}
	})
}
