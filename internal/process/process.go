package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone says that the process of an ID does not run any more.
var ErrGone = errors.New("process is gone")

// ID tells one process from all others, also after its number was reused or
// the machine was started again.
type ID struct {
	PID int `json:"pid"`
	// StartTime is field 22 of /proc/PID/stat: clock ticks since boot.
	StartTime uint64 `json:"startTime"`
	// BootID is /proc/sys/kernel/random/boot_id.
	BootID string `json:"bootID"`
}

// Exit says how a process ended.
type Exit struct {
	// Known is false for an adopted process: only its parent is told.
	Known bool
	Code  int
	// Signal is what killed it, or 0.
	Signal syscall.Signal
}

// String is for error messages: "exit status 1", "killed by SIGKILL".
func (e Exit) String() string {
	switch {
	case !e.Known:
		return "ended, nobody knows how"
	case e.Signal != 0:
		return "killed by " + unix.SignalName(e.Signal)
	default:
		return fmt.Sprintf("exit status %d", e.Code)
	}
}

// killTimeout is how long a killed process may take to vanish. It takes longer
// only when it is stuck in the kernel.
const killTimeout = 10 * time.Second

// Process is a running program. Its methods may be called at once from several
// goroutines.
type Process struct {
	id       ID
	maxFiles uint64
	child    *os.Process // nil if adopted
	done     chan struct{}
	exit     Exit // valid once done is closed

	mu    sync.Mutex
	pidfd *os.File // nil once done or released
}

// ID identifies the process, for a record.
func (p *Process) ID() ID { return p.id }

// MaxFiles is the RLIMIT_NOFILE that the program got, 0 if unknown (adopted).
func (p *Process) MaxFiles() uint64 { return p.maxFiles }

// Done is closed when the process has ended and was reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit says how it ended; it is meaningful once Done is closed.
func (p *Process) Exit() Exit {
	select {
	case <-p.done:
		return p.exit
	default:
		return Exit{}
	}
}

// Signal sends sig to the process itself, not to its group. The error is
// os.ErrProcessDone when it has ended.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd == nil {
		return os.ErrProcessDone
	}
	err := control(p.pidfd, func(fd int) error {
		return unix.PidfdSendSignal(fd, sig, nil, 0)
	})
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// Stop ends the process: SIGTERM, then SIGKILL to its whole group after grace or
// when ctx ends, and returns when it is gone. Ending ctx shortens the grace; it
// never leaves the process running.
func (p *Process) Stop(ctx context.Context, grace time.Duration) error {
	if grace > 0 && p.Signal(syscall.SIGTERM) == nil {
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-p.done:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return p.Kill()
}

// Kill ends the process and its group at once and waits until they are gone.
func (p *Process) Kill() error {
	p.killGroup()
	timer := time.NewTimer(killTimeout)
	defer timer.Stop()
	select {
	case <-p.done:
		return waitGroupGone(p.id.PID, killTimeout)
	case <-timer.C:
		return fmt.Errorf("process %d was killed but is still there after %s%s",
			p.id.PID, killTimeout, stateNote(p.id.PID))
	}
}

// Release forgets the process and leaves it running. Done is not closed then.
func (p *Process) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd != nil {
		_ = p.pidfd.Close()
		p.pidfd = nil
	}
}

// watch waits for the end of the process.
func (p *Process) watch(pidfd *os.File) {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return
	}
	if raw.Read(func(fd uintptr) bool { return ended(int(fd)) }) != nil {
		return // released
	}
	p.killGroup()
	if p.child != nil {
		p.exit = waitChild(p.child)
	}
	p.Release()
	close(p.done)
}

func waitChild(child *os.Process) Exit {
	state, err := child.Wait()
	if err != nil {
		return Exit{}
	}
	ws, ok := state.Sys().(syscall.WaitStatus)
	if !ok {
		return Exit{}
	}
	if ws.Signaled() {
		return Exit{Known: true, Code: -1, Signal: ws.Signal()}
	}
	return Exit{Known: true, Code: ws.ExitStatus()}
}

// ended says whether the process of a pidfd has exited (pidfd_open(2): it polls
// readable then).
func ended(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if err != unix.EINTR {
			return err == nil && n == 1
		}
	}
}

func control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if err := raw.Control(func(fd uintptr) { result = do(int(fd)) }); err != nil {
		return err
	}
	return result
}
