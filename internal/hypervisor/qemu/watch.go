package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"bield/internal/hypervisor"
)

// lastWords is how long after QEMU's end what it told may still be read.
const lastWords = time.Second

// watch is a connection of its own to QEMU's events, for as long as the machine
// runs: only there it tells why it ends.
type watch struct {
	stop context.CancelFunc
	// listening is closed when from now on all is heard.
	listening chan struct{}
	// over is closed when no more is heard; reason is then that of the event
	// SHUTDOWN, or "".
	over   chan struct{}
	reason string
}

// newWatch listens at a socket until stopped.
func newWatch(ctx context.Context, socket string) *watch {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	w := &watch{stop: stop, listening: make(chan struct{}), over: make(chan struct{})}
	go func() {
		defer close(w.over)
		defer stop()
		w.reason, _ = w.shutdownReason(ctx, socket)
	}()
	return w
}

// await returns when nothing can be missed any more, or with ctx.
func (w *watch) await(ctx context.Context) {
	select {
	case <-w.listening:
	case <-w.over:
	case <-ctx.Done():
	}
}

// shutdownReason reads events up to that of the machine's end.
func (w *watch) shutdownReason(ctx context.Context, socket string) (string, error) {
	conn, err := hypervisor.Dial(ctx, socket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	// Not converse: it would keep what it has read beyond the answer.
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, qmpBytes)
	if _, err := conn.Write([]byte("{\"execute\":\"qmp_capabilities\"}\r\n")); err != nil {
		return "", err
	}
	for greeted := false; lines.Scan(); {
		var m qmpMessage
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			return "", fmt.Errorf("%w: %w", errQMP, err)
		}
		switch {
		case m.Event == "SHUTDOWN":
			return m.Data.Reason, nil
		case m.Return != nil && !greeted:
			greeted = true
			close(w.listening)
		}
	}
	return "", lines.Err()
}

// Cause implements hypervisor.VM. The reasons are those of ShutdownCause in
// QEMU's qapi/run-state.json.
func (v *VM) Cause() error {
	exit := v.Exit()
	if exit.Known && (exit.Code != 0 || exit.Signal != 0) {
		return fmt.Errorf("the VMM ended: %s", exit)
	}
	switch reason := v.watch.heard(); {
	case reason == "guest-shutdown", reason == "" && exit.Known:
		return nil
	case reason == "":
		return errors.New("the VMM ended while no daemon saw how")
	case reason == "guest-reset", reason == "guest-panic":
		return errors.New("the guest reset its machine: its kernel panicked, or it was told to reboot")
	case slices.Contains(hostCauses(), reason):
		return fmt.Errorf("the VMM was ended: %s", reason)
	default:
		return errors.New("the VMM ended for a reason that is not known")
	}
}

// hostCauses are the other values of ShutdownCause: a QEMU that its guest has
// taken over may write anything.
func hostCauses() []string {
	return []string{"host-error", "host-qmp-quit", "host-qmp-system-reset", "host-signal", "host-ui", "subsystem-reset", "snapshot-load"}
}

// heard is what was told, once QEMU has ended.
func (w *watch) heard() string {
	timer := time.NewTimer(lastWords)
	defer timer.Stop()
	select {
	case <-w.over:
		return w.reason
	case <-timer.C:
		w.stop()
		<-w.over
		return w.reason
	}
}
