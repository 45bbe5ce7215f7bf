package hypervisortest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"bield/internal/hypervisor"
	"bield/internal/process"
)

// trial is one case with one subject. It keeps to itself what fails.
type trial struct {
	testing.TB
	subject Subject
	driver  hypervisor.Driver

	mu       sync.Mutex
	failures []string
	skipped  string
	ended    bool
}

// Errorf implements testing.TB.
func (t *trial) Errorf(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failures = append(t.failures, fmt.Sprintf(format, args...))
}

// Error implements testing.TB.
func (t *trial) Error(args ...any) { t.Errorf("%s", fmt.Sprint(args...)) }

// Fatalf implements testing.TB.
func (t *trial) Fatalf(format string, args ...any) {
	t.Errorf(format, args...)
	runtime.Goexit()
}

// Fatal implements testing.TB.
func (t *trial) Fatal(args ...any) { t.Fatalf("%s", fmt.Sprint(args...)) }

// Skip implements testing.TB.
func (t *trial) Skip(args ...any) {
	t.mu.Lock()
	t.skipped = fmt.Sprint(args...)
	t.mu.Unlock()
	runtime.Goexit()
}

// context ends when the subject's patience does.
func (t *trial) context() (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.Background(), t.subject.Patience, fmt.Errorf("not within %s", t.subject.Patience))
}

// machine is one of the subject's, without faults.
func (t *trial) machine() hypervisor.Machine { return t.subject.Machine(t, "") }

// start starts a machine that must run.
func (t *trial) start(m hypervisor.Machine) hypervisor.VM {
	ctx, cancel := t.context()
	defer cancel()
	vm, err := t.driver.Start(ctx, m)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	t.cleanUp(vm)
	return vm
}

// cleanUp ends a VM with the case, also one that was let go of.
func (t *trial) cleanUp(vm hypervisor.VM) {
	id := vm.ID()
	t.Cleanup(func() {
		if p, err := process.Adopt(id); err == nil {
			_ = p.Kill()
		}
		vm.Close()
	})
}

// adopt adopts a VM by a driver that is new, as a new daemon does.
func (t *trial) adopt(m hypervisor.Machine, id process.ID) hypervisor.VM {
	ctx, cancel := t.context()
	defer cancel()
	vm, err := t.subject.New().Adopt(ctx, m.Dir, id)
	if err != nil {
		t.Fatalf("adopt: %v", err)
	}
	t.cleanUp(vm)
	return vm
}

// serial connects to the serial line, for as long as the case runs.
func (t *trial) serial(vm hypervisor.VM) net.Conn {
	ctx, cancel := t.context()
	defer cancel()
	conn, err := vm.Serial(ctx)
	if err != nil {
		t.Fatalf("connect to the serial line: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(t.subject.Patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// type types on the guest's console.
func (t *trial) types(conn net.Conn, text string) {
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatalf("type %q: %v", text, err)
	}
}

// echoes holds the guest to send back what is typed. What it prints before that does
// not matter.
func (t *trial) echoes(conn net.Conn, text string) {
	t.types(conn, text)
	t.sees(conn, text)
}

// sees reads up to a text.
func (t *trial) sees(conn net.Conn, text string) {
	var got []byte
	chunk := make([]byte, 1024)
	for !bytes.Contains(got, []byte(text)) {
		n, err := conn.Read(chunk)
		got = append(got, chunk[:n]...)
		if err != nil {
			t.Fatalf("%q from the guest, then %v; want %q", tail(got), err, text)
		}
	}
}

func tail(text []byte) []byte { return text[max(0, len(text)-300):] }

// goesOn holds a VM to run, and its guest to answer.
func (t *trial) goesOn(vm hypervisor.VM) {
	select {
	case <-vm.Done():
		t.Fatalf("the VMM has ended: %v", vm.Cause())
	default:
	}
	conn := t.serial(vm)
	t.echoes(conn, "still there?")
	_ = conn.Close()
}

// ends waits for the end and returns its cause.
func (t *trial) ends(vm hypervisor.VM) error {
	select {
	case <-vm.Done():
		return vm.Cause()
	case <-time.After(t.subject.Patience):
		t.Fatalf("the VMM goes on")
		return nil
	}
}

// kill ends a VM at once.
func (t *trial) kill(vm hypervisor.VM) {
	ctx, cancel := t.context()
	defer cancel()
	if err := vm.Kill(ctx); err != nil {
		t.Errorf("kill: %v", err)
	}
	select {
	case <-vm.Done():
	default:
		t.Errorf("Kill returns before the VMM is gone")
	}
}

// signal sends a signal to a VMM behind its driver's back.
func (t *trial) signal(id process.ID, sig syscall.Signal) {
	p, err := process.Adopt(id)
	if err != nil {
		t.Fatalf("find the VMM: %v", err)
	}
	defer p.Release()
	if err := p.Signal(sig); err != nil {
		t.Fatalf("send %s to the VMM: %v", sig, err)
	}
}

// stop lets a VMM hang until it gets SIGCONT. It returns when no thread runs.
func (t *trial) stop(vm hypervisor.VM) {
	t.signal(vm.ID(), syscall.SIGSTOP)
	for deadline := time.Now().Add(t.subject.Patience); ; time.Sleep(time.Millisecond) {
		stopped := true
		for _, path := range t.threads(vm.ID().PID) {
			text, err := os.ReadFile(path)
			stopped = stopped && (err != nil || bytes.Contains(text, []byte("State:\tT")))
		}
		if stopped {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the VMM does not stop")
		}
	}
}

// gone holds a process to have ended.
func (t *trial) gone(id process.ID) {
	p, err := process.Adopt(id)
	if err == nil {
		p.Release()
	}
	if !errors.Is(err, process.ErrGone) {
		t.Errorf("the VMM's process %d is there still: %v", id.PID, err)
	}
}

// empty holds the run folder to have nothing left of the driver's.
func (t *trial) empty(m hypervisor.Machine) {
	if left := t.files(m); len(left) > 0 {
		t.Errorf("left in the run folder: %q", left)
	}
}

// files are the paths below a machine's run folder.
func (t *trial) files(m hypervisor.Machine) []string {
	var paths []string
	err := filepath.WalkDir(m.Dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && path != m.Dir {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return paths
}

// within calls what has to return soon after its context has ended, and returns its
// error.
func (t *trial) within(name string, limit time.Duration, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- call(ctx) }()
	select {
	case err := <-done:
		return err
	case <-time.After(limit + grace):
		t.Fatalf("%s goes on %s after its context has ended", name, grace)
		return nil
	}
}

// grace is how late a call may be that heeds its context, on a busy machine.
const grace = 3 * time.Second
