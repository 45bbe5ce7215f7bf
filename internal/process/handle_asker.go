package process

import (
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// asker is the process of a thread that asks. Its descriptors go on to mean
// that process when its number means another.
type asker struct {
	pidfd int
	// memory is its /proc/PID/mem.
	memory int
}

// maxAskers bounds the cache; virtiofsd asks from one thread or a small pool.
const maxAskers = 64

// asker returns the process that waits for this answer.
func (s *handleServer) asker(n *seccompNotif) (asker, error) {
	if a, ok := s.askers[n.pid]; ok {
		if !ended(a.pidfd) {
			return a, nil
		}
		a.close()
		delete(s.askers, n.pid)
	}
	a, err := openAsker(n.pid)
	if err != nil {
		return asker{}, err
	}
	// Only while the thread waits the number is certainly its own.
	if !notifValid(s.listener, n.id) {
		a.close()
		return asker{}, unix.ESRCH
	}
	s.remember(n.pid, a)
	return a, nil
}

func (s *handleServer) remember(tid uint32, a asker) {
	if len(s.askers) >= maxAskers {
		for _, old := range s.askers {
			old.close()
		}
		clear(s.askers)
	}
	s.askers[tid] = a
}

func openAsker(tid uint32) (asker, error) {
	pidfd, err := openThreadGroup(tid)
	if err != nil {
		return asker{}, err
	}
	memory, err := unix.Open("/proc/"+strconv.Itoa(int(tid))+"/mem", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(pidfd)
		return asker{}, err
	}
	return asker{pidfd, memory}, nil
}

func (a asker) close() {
	unix.Close(a.pidfd)
	unix.Close(a.memory)
}

// copyFD copies a descriptor.
func (a asker) copyFD(fd uint64) (int, error) {
	return unix.PidfdGetfd(a.pidfd, int(int32(fd)), 0)
}

// read fills all of to.
func (a asker) read(address uint64, to []byte) error {
	if n, err := unix.Pread(a.memory, to, int64(address)); err != nil || n != len(to) {
		return unix.EFAULT
	}
	return nil
}

// write writes all of from.
func (a asker) write(address uint64, from []byte) error {
	if n, err := unix.Pwrite(a.memory, from, int64(address)); err != nil || n != len(from) {
		return unix.EFAULT
	}
	return nil
}

// openThreadGroup opens a pidfd of the process that a thread belongs to.
func openThreadGroup(tid uint32) (int, error) {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(int(tid)) + "/status")
	if err != nil {
		return -1, unix.ESRCH
	}
	for line := range bytes.Lines(status) {
		if value, ok := bytes.CutPrefix(line, []byte("Tgid:")); ok {
			pid, err := strconv.Atoi(string(bytes.TrimSpace(value)))
			if err != nil {
				return -1, unix.ESRCH
			}
			return unix.PidfdOpen(pid, 0)
		}
	}
	return -1, unix.ESRCH
}
