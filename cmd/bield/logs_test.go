package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func plainOf(t *testing.T, chunks ...string) string {
	t.Helper()
	var out bytes.Buffer
	w := &plainWriter{w: &out}
	for _, chunk := range chunks {
		if n, err := w.Write([]byte(chunk)); err != nil || n != len(chunk) {
			t.Fatalf("write %q: %d, %v", chunk, n, err)
		}
	}
	return out.String()
}

func TestPlainWriter(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"text":                        {"one\n\ttwo  größer\n", "one\n\ttwo  größer\n"},
		"carriage returns":            {"one\r\ntwo\rthree\n", "one\ntwothree\n"},
		"colours":                     {"\x1b[1;31mred\x1b[0m.", "red."},
		"cursor and screen":           {"\x1b[2J\x1b[H\x1b[?25lx", "x"},
		"a title":                     {"\x1b]0;you are root\x07$ ", "$ "},
		"a title that ends with ST":   {"\x1b]0;title\x1b\\$ ", "$ "},
		"a device control string":     {"\x1bP$qm\x1b\\x", "x"},
		"a string that never ends":    {"\x1b]0;for ever\nnext line", "\nnext line"},
		"two characters":              {"\x1b7\x1bcx", "x"},
		"bell, backspace and delete":  {"a\x07b\x08c\x7fd\x00e", "abcde"},
		"a character set":             {"\x1b(Bx\x1b%Gy", "xy"},
		"at the end":                  {"x\x1b", "x"},
		"8-bit control characters":    {"\xc2\x9b31mred\xc2\x9d0;t\x07.", "red."},
		"invalid UTF-8":               {"a\xff\x9bb", "ab"},
		"an escape within a sequence": {"\x1b[\x1b[31mred", "red"},
		"bidirectional overrides":     {"\u202egnp.exe", "gnp.exe"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := plainOf(t, c.in); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if got := plainOf(t, strings.Split(c.in, "")...); got != c.want {
				t.Errorf("byte by byte: got %q, want %q", got, c.want)
			}
		})
	}
}

// FuzzPlainWriter holds it to leave nothing that a terminal obeys, however the
// bytes are cut.
func FuzzPlainWriter(f *testing.F) {
	for _, seed := range []string{"text\n", "\x1b[31mred\x1b[0m", "\x1b]0;t\x07", "\x1bP\x1b\\", "\xc2\x9b31m", "\xe2\x80\xae", "a\xffb"} {
		f.Add([]byte(seed), 1)
	}
	f.Fuzz(func(t *testing.T, data []byte, at int) {
		whole := plainOf(t, string(data))
		at = min(max(at, 0), len(data))
		if parts := plainOf(t, string(data[:at]), string(data[at:])); parts != whole {
			t.Errorf("cut at %d: %q, whole: %q", at, parts, whole)
		}
		if !utf8.ValidString(whole) {
			t.Errorf("invalid UTF-8: %q", whole)
		}
		for _, r := range whole {
			if r < 0x20 && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 {
				t.Errorf("%q leaves the control character %U", whole, r)
			}
		}
		if again := plainOf(t, whole); again != whole {
			t.Errorf("%q becomes %q when it is cleaned again", whole, again)
		}
	})
}

func TestUntilUnread(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	ctx, stop := untilUnread(t.Context(), w)
	defer stop()
	select {
	case <-ctx.Done():
		t.Fatal("it ended although somebody reads")
	case <-time.After(20 * time.Millisecond):
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
		t.Error("it goes on although nobody reads")
	}
	if file, stop := untilUnread(context.Background(), &bytes.Buffer{}); file.Err() != nil {
		t.Error("what is no pipe is always read")
	} else {
		stop()
	}
}
