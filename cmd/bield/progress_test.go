package main

import (
	"bytes"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/creack/pty"

	"bield/internal/api"
)

func event(vm, step, state, message string, elapsed time.Duration) api.Event {
	return api.Event{VM: vm, Step: step, State: state, Message: message, Elapsed: elapsed}
}

func TestPlainProgress(t *testing.T) {
	for name, c := range map[string]struct {
		events []api.Event
		want   string
	}{
		"starts and quick steps are left out": {[]api.Event{
			event("one", "image", "start", "", 0), event("one", "image", "done", "", time.Millisecond),
			event("one", "vmm", "start", "", 0), event("one", "vmm", "done", "", 1234*time.Millisecond),
		}, "one: vmm (1.2s)\n"},
		"the host's own steps": {[]api.Event{
			event("", "bridge", "done", "", time.Second),
		}, "host: bridge (1.0s)\n"},
		"what goes on within a step is said once": {[]api.Event{
			event("one", "image", "progress", "installing packages", 0),
			event("one", "image", "progress", "installing packages", 0),
			event("one", "image", "progress", "write to disk", 0),
		}, "one: image: installing packages\none: image: write to disk\n"},
		"up, however quick": {[]api.Event{
			event("one", "ready", "progress", "sshd", 0), event("one", "ready", "progress", "ready", 0),
			event("one", "ready", "done", "", time.Millisecond),
		}, "one: ready: sshd\none: is up in 0.0s\n"},
		"up already": {[]api.Event{
			event("one", "ready", "done", "runs already", 0),
		}, "one: runs already\n"},
		"down": {[]api.Event{
			event("one", "forget", "done", "", time.Millisecond),
		}, "one: is down in 0.0s\n"},
		"down already": {[]api.Event{
			event("one", "stop", "done", "is down", 0),
		}, "one: is down\n"},
		"a failure is no way down": {[]api.Event{
			event("one", "ready", "failed", "it broke", 2*time.Second), event("one", "forget", "done", "", 0),
		}, "one: ready: failed (2.0s)\none: what was made is taken back\n"},
		"the end of the call is the caller's to tell": {[]api.Event{
			{Done: true, Message: "sha"},
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			p := (&app{err: &out}).newProgress("up")
			for _, e := range c.events {
				p.show(e)
			}
			p.close()
			if out.String() != c.want {
				t.Errorf("got:\n%swant:\n%s", out.String(), c.want)
			}
		})
	}
}

// TestPlainProgressTime shows that up tells of the whole way, not of its last step.
func TestPlainProgressTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := (&app{err: &out}).newProgress("up")
		p.show(event("one", "image", "start", "", 0))
		time.Sleep(6 * time.Second)
		p.show(event("one", "ready", "done", "", time.Second))
		p.close()
		if want := "one: is up in 6.0s\n"; out.String() != want {
			t.Errorf("got %q, want %q", out.String(), want)
		}
	})
}

// screen is a terminal that keeps what is on it.
type screen struct {
	lines []string
	row   int
}

var controls = regexp.MustCompile(`\x1b\[(\d*)([A-Zm])|\r?\n|\r|[^\x1b\r\n]+`)

// print understands what progress writes: up, erase line, colours, newline.
func (s *screen) print(t *testing.T, text string) {
	t.Helper()
	for _, m := range controls.FindAllStringSubmatch(text, -1) {
		for len(s.lines) <= s.row {
			s.lines = append(s.lines, "")
		}
		switch {
		case m[2] == "A":
			if s.row--; s.row < 0 {
				t.Fatalf("the cursor leaves the terminal: %q", text)
			}
		case m[2] == "K":
			s.lines[s.row] = ""
		case m[2] == "m", m[0] == "\r":
		case strings.HasSuffix(m[0], "\n"):
			s.row++
		case m[2] != "":
			t.Fatalf("unknown sequence %q", m[0])
		default:
			s.lines[s.row] += m[0]
		}
	}
}

// terminal is a progress on a pseudo terminal of 60 columns; read ends it and
// returns all that was written.
func terminal(t *testing.T, run func(p *progress)) (raw string, shown []string) {
	t.Helper()
	t.Setenv("TERM", "xterm")
	ours, theirs, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := pty.Setsize(ours, &pty.Winsize{Rows: 24, Cols: 60}); err != nil {
		t.Fatal(err)
	}
	written := make(chan string)
	go func() {
		data, _ := io.ReadAll(ours) // EIO once the other end is closed
		written <- string(data)
	}()
	p := (&app{err: theirs}).newProgress("up")
	if !p.live {
		t.Fatal("a terminal is not seen as one")
	}
	run(p)
	p.close()
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	raw = <-written
	_ = ours.Close()
	var s screen
	s.print(t, raw)
	for _, line := range s.lines {
		if line != "" {
			shown = append(shown, line)
		}
	}
	return raw, shown
}

func drawn(p *progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draw()
}

func TestLiveProgress(t *testing.T) {
	raw, shown := terminal(t, func(p *progress) {
		p.show(event("one", "image", "start", "", 0))
		p.show(event("two", "image", "start", "", 0))
		drawn(p)
		p.show(event("one", "image", "progress", strings.Repeat("a long message ", 20)+"\nof two lines", 0))
		drawn(p)
		p.show(event("one", "ready", "done", "", time.Second))
		p.show(event("two", "ready", "done", "runs already", 0))
	})
	want := []string{"✓ one is up in 0.0s", "✓ two runs already"}
	if len(shown) != 2 || shown[0] != want[0] || shown[1] != want[1] {
		t.Errorf("on the terminal at the end: %q, want %q", shown, want)
	}
	for _, part := range []string{"one  image  0.0s", "two  image  0.0s", "a long mess", "…", "\x1b[32m✓\x1b[0m"} {
		if !strings.Contains(raw, part) {
			t.Errorf("%q was never shown in %q", part, raw)
		}
	}
	for line := range strings.SplitSeq(raw, "\n") {
		if plain := regexp.MustCompile(`\x1b\[\d*[A-Zm]|\r`).ReplaceAllString(line, ""); len([]rune(plain)) > 60 {
			t.Errorf("a line of %d columns would break: %q", len([]rune(plain)), plain)
		}
	}
}

// TestLiveProgressOfAFailure leaves nothing behind: the error is main's to print.
func TestLiveProgressOfAFailure(t *testing.T) {
	_, shown := terminal(t, func(p *progress) {
		p.show(event("one", "vmm", "start", "", 0))
		drawn(p)
		p.show(event("one", "vmm", "failed", "it broke", time.Second))
		p.show(event("one", "forget", "done", "", 0))
		drawn(p)
	})
	if len(shown) != 0 {
		t.Errorf("left on the terminal: %q", shown)
	}
}

func TestTerminals(t *testing.T) {
	ours, theirs, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ours.Close() }()
	defer func() { _ = theirs.Close() }()
	a := &app{}
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "xterm")
	if got := a.paint(theirs, red, "x"); got != "\x1b[31mx\x1b[0m" {
		t.Errorf("a colour: %q", got)
	}
	t.Setenv("NO_COLOR", "1")
	if got := a.paint(theirs, red, "x"); got != "x" {
		t.Errorf("with NO_COLOR: %q", got)
	}
	t.Setenv("TERM", "dumb")
	if isTerminal(theirs) {
		t.Error("a dumb terminal is no terminal to draw on")
	}
	file, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if isTerminal(file) || isTerminal(&bytes.Buffer{}) || terminalWidth(file) != 80 {
		t.Error("a file is no terminal and 80 columns wide")
	}
}

func TestCut(t *testing.T) {
	for _, c := range []struct {
		text  string
		width int
		want  string
	}{
		{"short", 20, "short"},
		{"exactly ten", 11, "exactly ten"},
		{"a line that is too long", 10, "a line th…"},
		{"größer als die Breite", 10, "größer al…"},
		{"two\nlines", 20, "two lines"},
		{"a terminal too narrow for anything", 3, "a terminal too narrow for anything"},
	} {
		if got := cut(c.text, c.width); got != c.want {
			t.Errorf("cut(%q, %d) = %q, want %q", c.text, c.width, got, c.want)
		}
	}
}
