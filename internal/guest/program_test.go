package guest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bield/internal/guestlink"
)

// runShell has a guest execute this machine's sh with a script as its input.
func runShell(ctx context.Context, t *testing.T, script io.Reader, take func([]byte) error) (guestlink.Exit, error) {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "needs root, for a PID namespace")
	}
	image, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	port, _ := serveLink(t, newJournal())
	s := port.dial(t)
	return s.Run(ctx, guestlink.Program{Name: "sh", Image: image, Input: script, MaxOutput: 1 << 20}, take)
}

func TestProgramRuns(t *testing.T) {
	var out bytes.Buffer
	script := "echo pid $$; echo oh no >&2; exit 7\n"
	exit, err := runShell(testContext(t), t, strings.NewReader(script), func(b []byte) error { out.Write(b); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if exit.Code != 7 || exit.Errors != "oh no" || !strings.HasPrefix(out.String(), "pid 1\n") {
		t.Errorf("%+v, %q", exit, out.String())
	}
}

func TestProgramIsKilled(t *testing.T) {
	var out bytes.Buffer
	exit, err := runShell(testContext(t), t, strings.NewReader("sh -c 'kill -9 $$'; echo $?; exec cat /nosuch\n"), func(b []byte) error { out.Write(b); return nil })
	if err != nil || out.String() != "137\n" || exit.Code != 1 {
		t.Errorf("%+v, %q, %v", exit, out.String(), err)
	}
}

// TestProgramEndsWithItsStream: with all that it has started, also what left its
// session.
func TestProgramEndsWithItsStream(t *testing.T) {
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	const nap = "4711.25"
	script, w := io.Pipe()
	defer w.Close()
	go func() { _, _ = io.WriteString(w, "setsid sleep "+nap+" & sleep "+nap+" & echo started\n") }()
	_, err := runShell(ctx, t, script, func([]byte) error {
		if n := running(nap); n == 0 {
			t.Error("nothing was started")
		}
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); running(nap) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("what it started outlived it")
		}
	}
}

// running counts the processes with an argument.
func running(argument string) (n int) {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		if line, _ := os.ReadFile(path); bytes.Contains(line, []byte("\x00"+argument+"\x00")) {
			n++
		}
	}
	return n
}

func TestProgramRefused(t *testing.T) {
	port, _ := serveLink(t, newJournal())
	s := port.dial(t)
	for want, image := range map[string][]byte{"the limit is": {}, "exec format error": []byte("no program")} {
		_, err := s.Run(testContext(t), guestlink.Program{Name: "p", Image: image, Input: strings.NewReader("")}, func([]byte) error { return nil })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
