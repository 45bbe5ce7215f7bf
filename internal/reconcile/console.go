package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"bield/internal/state"
)

// maxConsoleBytes bounds a console log; as much again is kept of what was
// before. The guest chooses what and how much it writes.
const maxConsoleBytes = 1 << 20

// console is the log of a guest's serial line: a file of bounded size and its
// predecessor, path.1.
type console struct {
	path string

	mu      sync.Mutex
	file    *os.File
	size    int64
	turned  int           // how often the file was changed for a new one
	written chan struct{} // closed and replaced at each write
	closed  bool
}

// openConsole opens a VM's log; fresh drops what earlier boots wrote.
func openConsole(path string, fresh bool) (*console, error) {
	flags := os.O_WRONLY | os.O_CREATE | os.O_APPEND | unix.O_NOFOLLOW
	if fresh {
		flags |= os.O_TRUNC
		if err := state.Remove(path + ".1"); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open console log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open console log: %w", err)
	}
	return &console{path: path, file: f, size: info.Size(), written: make(chan struct{})}, nil
}

// Write appends to the log. It never fails: a full disk must not stall the
// guest, whose bytes are then dropped.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return len(p), nil
	}
	if c.size+int64(len(p)) > maxConsoleBytes {
		c.turn()
	}
	n, _ := c.file.Write(p)
	c.size += int64(n)
	close(c.written)
	c.written = make(chan struct{})
	return len(p), nil
}

// turn makes the file the old one and begins a new one. Needs c.mu.
func (c *console) turn() {
	f, err := os.OpenFile(c.path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		_ = c.file.Truncate(0)
		c.size = 0
		return
	}
	_ = os.Rename(c.path, c.path+".1")
	_ = os.Rename(c.path+".new", c.path)
	_ = c.file.Close()
	c.file, c.size = f, 0
	c.turned++
}

// Close ends the log; those who follow it get to its end.
func (c *console) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closed = true
		_ = c.file.Close()
		close(c.written)
	}
}

// reopen opens the newest file for reading, and says which it is.
func (c *console) reopen() (*os.File, int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f, err := os.Open(c.path)
	return f, c.turned, err
}

// position is where a follower stands: whether there may be more, what to wait
// for, and which file it is.
func (c *console) position() (turned int, more <-chan struct{}, closed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.turned, c.written, c.closed
}

// drainConsole copies the serial line into the log until the run is over.
func (r *run) drainConsole(log *slog.Logger) {
	defer close(r.drained)
	defer r.console.Close()
	ctx, cancel := r.context()
	defer cancel()
	conn, err := r.vmm.Serial(ctx)
	if err != nil {
		log.Warn("read the serial line", "error", err)
		return
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if _, err := io.Copy(r.console, conn); err != nil && ctx.Err() == nil {
		log.Warn("read the serial line", "error", err)
	}
}

// Logs writes what the guest's console showed in its newest boot; follow goes
// on until the VM ends or ctx does.
func (e *Engine) Logs(ctx context.Context, caller Caller, name string, follow bool, out io.Writer) error {
	m, err := e.user(caller, name)
	if err != nil {
		return err
	}
	e.mu.Lock()
	var live *console
	if m.run != nil {
		live = m.run.console
	}
	path := state.Folder{Dir: e.applied.Host.StateDir}.Console(name)
	e.mu.Unlock()
	if live == nil || !follow {
		return copyLog(out, path)
	}
	return live.follow(ctx, out)
}

// copyLog writes both files of a log.
func copyLog(out io.Writer, path string) error {
	for _, p := range []string{path + ".1", path} {
		if err := copyFile(out, p); err != nil {
			return err
		}
	}
	return nil
}

// copyFile writes a file that may not be there.
func copyFile(out io.Writer, path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read console log: %w", err)
	}
	defer func() { _ = f.Close() }()
	_, err = io.Copy(out, f)
	return err
}

// follow writes the log from its beginning and then as it grows.
func (c *console) follow(ctx context.Context, out io.Writer) error {
	if err := copyFile(out, c.path+".1"); err != nil {
		return err
	}
	for {
		f, turned, err := c.reopen()
		if err != nil {
			return fmt.Errorf("read console log: %w", err)
		}
		over, err := c.followFile(ctx, out, f, turned)
		_ = f.Close()
		if over || err != nil {
			return err
		}
	}
}

// followFile writes one file of the log until it was changed for another or
// the log is over.
func (c *console) followFile(ctx context.Context, out io.Writer, f *os.File, turned int) (over bool, err error) {
	for {
		now, more, closed := c.position()
		if _, err := io.Copy(out, f); err != nil {
			return true, err
		}
		if closed {
			return true, nil
		}
		if now != turned {
			return false, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return true, ctx.Err()
		}
	}
}
