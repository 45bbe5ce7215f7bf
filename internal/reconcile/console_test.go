package reconcile

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestConsoleIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	c, err := openConsole(path, true)
	if err != nil {
		t.Fatal(err)
	}
	line := bytes.Repeat([]byte("x"), 64<<10)
	for range 100 {
		if n, err := c.Write(line); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
	}
	c.Close()
	var total int64
	for _, p := range []string{path, path + ".1"} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if total > 2*maxConsoleBytes || total < maxConsoleBytes {
		t.Errorf("%d bytes are kept", total)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 2 {
		t.Errorf("files: %v", entries)
	}
}

func TestConsoleOfANewBootForgetsTheOld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	for i, text := range []string{"first", "second"} {
		c, err := openConsole(path, i == 0)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte(text))
		c.Close()
	}
	if got := logText(t, path); got != "firstsecond" {
		t.Errorf("a daemon that takes over goes on in the log: got %q", got)
	}
	c, err := openConsole(path, true)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if got := logText(t, path); got != "" {
		t.Errorf("got %q", got)
	}
}

func logText(t *testing.T, path string) string {
	t.Helper()
	var out bytes.Buffer
	if err := copyLog(&out, path); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestConsoleFollow reads a log while it grows over its bound: whoever keeps up
// misses nothing.
func TestConsoleFollow(t *testing.T) {
	c, err := openConsole(filepath.Join(t.TempDir(), "console.log"), true)
	if err != nil {
		t.Fatal(err)
	}
	out := &counter{read: make(chan int, 1000)}
	done := make(chan error, 1)
	go func() { done <- c.follow(t.Context(), out, nil) }()
	line := strings.Repeat("y", 32<<10)
	for i := range 80 {
		_, _ = c.Write([]byte(line))
		for read := 0; read < (i+1)*len(line); {
			read = out.total(t)
		}
	}
	c.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// counter counts what is written to it.
type counter struct {
	read chan int
	sum  int
}

func (c *counter) Write(p []byte) (int, error) {
	c.read <- len(p)
	return len(p), nil
}

func (c *counter) total(t *testing.T) int {
	t.Helper()
	select {
	case n := <-c.read:
		c.sum += n
	case <-time.After(10 * time.Second):
		t.Fatalf("nothing was read any more after %d bytes", c.sum)
	}
	return c.sum
}

func TestConsoleFollowEndsWithItsContext(t *testing.T) {
	c, err := openConsole(filepath.Join(t.TempDir(), "console.log"), true)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.follow(ctx, &bytes.Buffer{}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
