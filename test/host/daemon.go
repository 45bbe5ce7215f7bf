package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"bield/internal/api/client"
)

// Patience is how long a test waits for anything.
const Patience = 15 * time.Second

// DaemonPID is 0 where no daemon runs.
func (h *Host) DaemonPID() (int, error) {
	reply, err := h.Client.Version(context.Background())
	h.Client.Close()
	if errors.Is(err, client.ErrNoDaemon) {
		return 0, nil
	}
	return reply.PID, err
}

// EndDaemon signals the daemon and waits for its end.
func (h *Host) EndDaemon(signal unix.Signal) error {
	return h.WithDaemon(func(fd int) error {
		if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil {
			return fmt.Errorf("signal bieldd: %w", err)
		}
		if !Ends(fd, 20*time.Second) {
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			return fmt.Errorf("bieldd does not end on %s", signal)
		}
		return nil
	})
}

// AwaitDaemonsEnd waits until the daemon has ended, and asks it nothing
// meanwhile.
func (h *Host) AwaitDaemonsEnd() error {
	return h.WithDaemon(func(fd int) error {
		if !Ends(fd, Patience) {
			return errors.New("the daemon goes on")
		}
		return nil
	})
}

// WithDaemon gives use a pidfd of the daemon, if one runs.
func (h *Host) WithDaemon(use func(fd int) error) error {
	pid, err := h.DaemonPID()
	if err != nil || pid == 0 {
		return err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("pidfd of bieldd: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	return use(fd)
}

// Ends waits for the end of a pidfd's process (pidfd_open(2)).
func Ends(fd int, limit time.Duration) bool {
	end := time.Now().Add(limit)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(max(0, time.Until(end).Milliseconds())))
		if !errors.Is(err, unix.EINTR) {
			return n == 1
		}
	}
}

// StartDaemon starts bieldd as bield does, and returns when it serves. extra is
// put into its environment.
func (h *Host) StartDaemon(extra map[string]string, args ...string) error {
	ready, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = ready.Close() }()
	log, err := os.OpenFile(filepath.Join(h.Work, "bieldd.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	env := h.Environment()
	maps.Copy(env, extra)
	cmd := exec.Command(Bin("bieldd"), append([]string{"--ready-fd", "3"}, args...)...)
	for key, value := range env {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{theirs}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }()
	text, err := io.ReadAll(ready)
	if err == nil && string(text) != "\n" {
		err = fmt.Errorf("bieldd: %q", text)
	}
	return err
}

// WaitFor polls for what has no event a test could wait on, more and more rarely.
func WaitFor(limit time.Duration, done func() bool) bool {
	pause := time.Millisecond
	for end := time.Now().Add(limit); ; time.Sleep(pause) {
		pause = min(2*pause, 50*time.Millisecond)
		if done() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}
