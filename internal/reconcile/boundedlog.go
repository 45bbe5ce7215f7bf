package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"bield/internal/state"
)

// boundedLog is a log of bounded size that can be followed while it grows: a
// file of at most limit bytes and its predecessor, path.1.
type boundedLog struct {
	path  string
	limit int64

	mu      sync.Mutex
	file    *os.File
	size    int64
	turned  int           // how often the file was changed for a new one
	written chan struct{} // closed and replaced at each write
	closed  bool
}

// openBoundedLog opens a log for writing; fresh drops what it held.
func openBoundedLog(path string, limit int64, fresh bool) (*boundedLog, error) {
	flags := os.O_WRONLY | os.O_CREATE | os.O_APPEND | unix.O_NOFOLLOW
	if fresh {
		flags |= os.O_TRUNC
		if err := state.Remove(path + ".1"); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open log: %w", err)
	}
	return &boundedLog{path: path, limit: limit, file: f, size: info.Size(), written: make(chan struct{})}, nil
}

// Write appends to the log. It never fails: a full disk must not stall who
// writes, whose bytes are then dropped.
func (l *boundedLog) Write(p []byte) (int, error) {
	l.add(p)
	return len(p), nil
}

// add appends to the log and says whether all of it is there.
func (l *boundedLog) add(p []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	if l.size+int64(len(p)) > l.limit {
		l.turn()
	}
	n, _ := l.file.Write(p)
	l.size += int64(n)
	close(l.written)
	l.written = make(chan struct{})
	return n == len(p)
}

// turn makes the file the old one and begins a new one. Needs l.mu.
func (l *boundedLog) turn() {
	f, err := os.OpenFile(l.path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		_ = l.file.Truncate(0)
		l.size = 0
		return
	}
	_ = os.Rename(l.path, l.path+".1")
	_ = os.Rename(l.path+".new", l.path)
	_ = l.file.Close()
	l.file, l.size = f, 0
	l.turned++
}

// Close ends the log; those who follow it get to its end.
func (l *boundedLog) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.closed = true
		_ = l.file.Close()
		close(l.written)
	}
}

// logReader reads a log of which turned says which file it stands in.
type logReader struct {
	log    *boundedLog
	file   *os.File
	turned int
}

// reopen goes to the newest file. The predecessor, for who wants it, is of the
// same moment; it is nil where there is none.
func (r *logReader) reopen() (before *os.File, err error) {
	l := r.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.file != nil {
		_ = r.file.Close()
	}
	r.turned = l.turned
	if r.file, err = os.Open(l.path); err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	if before, err = os.Open(l.path + ".1"); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return before, err
}

// position is where a reader stands: whether there may be more, what to wait
// for, and which file it is.
func (l *boundedLog) position() (turned int, more <-chan struct{}, closed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.turned, l.written, l.closed
}

// errEnough is returned by a caughtUp that wants no more than what is there.
var errEnough = errors.New("read to its end")

// follow writes the log from its beginning and then as it grows, until it is
// closed or ctx ends. caughtUp, if not nil, is called each time when all that
// is there was written; its error ends the following. A reader is never waited
// for: one so slow that the file is changed twice meanwhile misses what was in
// between.
func (l *boundedLog) follow(ctx context.Context, out io.Writer, caughtUp func() error) error {
	r := &logReader{log: l}
	defer func() { _ = r.file.Close() }()
	before, err := r.reopen()
	if before != nil {
		_, err = io.Copy(out, before)
		_ = before.Close()
	}
	for err == nil {
		var over bool
		if over, err = r.follow(ctx, out, caughtUp); over || err != nil {
			break
		}
		if before, err = r.reopen(); before != nil {
			_ = before.Close()
		}
	}
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// follow writes one file of the log until it was changed for another or the
// log is over.
func (r *logReader) follow(ctx context.Context, out io.Writer, caughtUp func() error) (over bool, err error) {
	for {
		now, more, closed := r.log.position()
		ended := ctx.Err() != nil
		if _, err := io.Copy(out, r.file); err != nil {
			return true, err
		}
		if now != r.turned {
			return false, nil
		}
		if caughtUp != nil {
			if err := caughtUp(); err != nil {
				return true, err
			}
		}
		if closed || ended {
			return true, ctx.Err()
		}
		select {
		case <-more:
		case <-ctx.Done():
		}
	}
}

// copyTo writes what the log holds now.
func (l *boundedLog) copyTo(ctx context.Context, out io.Writer) error {
	return l.follow(ctx, out, func() error { return errEnough })
}

// copyLog writes both files of a log that nobody writes.
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
		return fmt.Errorf("read log: %w", err)
	}
	defer func() { _ = f.Close() }()
	_, err = io.Copy(out, f)
	return err
}
