package process

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Adopt takes charge of a process that an earlier daemon started. The error
// wraps ErrGone when it has ended, the number belongs to another process, or
// the machine was started again since.
func Adopt(id ID) (*Process, error) {
	boot, err := bootID()
	if err != nil {
		return nil, fmt.Errorf("adopt process %d: %w", id.PID, err)
	}
	if id.PID <= 0 || id.BootID != boot {
		return nil, fmt.Errorf("adopt process %d: %w", id.PID, ErrGone)
	}
	pidfd, err := openPidfd(id.PID)
	if err != nil {
		return nil, fmt.Errorf("adopt process %d: %w", id.PID, err)
	}
	if err := verify(pidfd, id); err != nil {
		_ = pidfd.Close()
		return nil, fmt.Errorf("adopt process %d: %w", id.PID, err)
	}
	return newProcess(id, pidfd, nil, 0), nil
}

// verify checks that the pidfd is the ID's process. The number can't have
// changed hands while the pidfd's process has not ended.
func verify(pidfd *os.File, id ID) error {
	s, err := readStat(id.PID)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return ErrGone
	}
	if err != nil {
		return err
	}
	gone := false
	if err := control(pidfd, func(fd int) error { gone = ended(fd); return nil }); err != nil {
		return err
	}
	if gone || s.dead() || s.startTime != id.StartTime {
		return ErrGone
	}
	return nil
}

// openPidfd returns a pidfd that Go's poller can wait on.
func openPidfd(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

func newProcess(id ID, pidfd *os.File, child *os.Process, maxFiles uint64) *Process {
	p := &Process{id: id, maxFiles: maxFiles, child: child, done: make(chan struct{}), pidfd: pidfd}
	go p.watch(pidfd)
	return p
}
