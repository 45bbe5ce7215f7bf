package reconcile

import (
	"context"
	"io"
	"log/slog"

	"bield/internal/state"
)

// maxConsoleBytes bounds a console log; as much again is kept of what was
// before. The guest chooses what and how much it writes.
const maxConsoleBytes = 1 << 20

// openConsole opens the log of a guest's serial line; fresh drops what earlier
// boots wrote.
func openConsole(path string, fresh bool) (*boundedLog, error) {
	return openBoundedLog(path, maxConsoleBytes, fresh)
}

const consoleBuffer = 4 << 10

// drainConsole copies the serial line into the log until the run is over.
func (r *run) drainConsole(ctx context.Context, log *slog.Logger) {
	defer close(r.drained)
	defer r.console.Close()
	conn, err := r.vmm.Serial(ctx)
	if err != nil {
		log.Warn("read the serial line", "error", err)
		return
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	// A serial line is slow: hundreds of them need no large buffers.
	lines := struct{ io.Reader }{conn}
	if _, err := io.CopyBuffer(r.console, lines, make([]byte, consoleBuffer)); err != nil && ctx.Err() == nil {
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
	var live *boundedLog
	if m.run != nil {
		live = m.run.console
	}
	path := state.Folder{Dir: e.applied.Host.StateDir}.Console(name)
	e.mu.Unlock()
	switch {
	case live == nil:
		return copyLog(out, path)
	case follow:
		return live.follow(ctx, out, nil)
	default:
		return live.copyTo(ctx, out)
	}
}
