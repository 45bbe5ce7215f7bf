package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// reaper waits for every child of PID 1: its own, and the orphans that every
// other process's death leaves to it. It is the only one that waits, or the
// two would take each other's children.
type reaper struct {
	// mu is held while a child is started, so that its death is not seen
	// before it is known.
	mu      sync.Mutex
	waiting map[int]chan unix.WaitStatus
	empty   []chan struct{}
	kick    chan struct{}
}

func newReaper() *reaper {
	return &reaper{waiting: make(map[int]chan unix.WaitStatus), kick: make(chan struct{}, 1)}
}

// run reaps until ctx is done.
func (r *reaper) run(ctx context.Context) {
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	defer signal.Stop(died)
	for {
		r.reap()
		select {
		case <-died:
		case <-r.kick:
		case <-ctx.Done():
			return
		}
	}
}

// reap takes all that are dead now.
func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD):
			r.tellEmpty()
			return
		case err != nil || pid == 0:
			return
		}
		if c, ok := r.waiting[pid]; ok {
			delete(r.waiting, pid)
			c <- status
		}
	}
}

func (r *reaper) tellEmpty() {
	for _, c := range r.empty {
		close(c)
	}
	r.empty = nil
}

// childless is closed once no child is left. PID 1 is every orphan's parent,
// so then no process is.
func (r *reaper) childless() <-chan struct{} {
	c := make(chan struct{})
	r.mu.Lock()
	r.empty = append(r.empty, c)
	r.mu.Unlock()
	select {
	case r.kick <- struct{}{}:
	default:
	}
	return c
}

// start runs a program in a session of its own with the given output.
func (r *reaper) start(argv, env []string, output *os.File) (*child, error) {
	return r.begin(argv[0], argv, &os.ProcAttr{Dir: "/", Env: env,
		Files: []*os.File{nil, output, output}, Sys: &unix.SysProcAttr{Setsid: true}})
}

// begin is a starter.
func (r *reaper) begin(path string, argv []string, attr *os.ProcAttr) (*child, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, err := os.StartProcess(path, argv, attr)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	exited := make(chan unix.WaitStatus, 1)
	r.waiting[p.Pid] = exited
	c := &child{pid: p.Pid, exited: exited}
	_ = p.Release()
	return c, nil
}

// child is a process that is waited for.
type child struct {
	pid int
	// exited delivers one status.
	exited <-chan unix.WaitStatus
}

// exitText says how a process ended.
func exitText(s unix.WaitStatus) string {
	if s.Signaled() {
		return "killed by " + unix.SignalName(s.Signal())
	}
	return fmt.Sprintf("exit status %d", s.ExitStatus())
}
