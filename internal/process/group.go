package process

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pidfdSignalProcessGroup is PIDFD_SIGNAL_PROCESS_GROUP of linux/pidfd.h,
// kernel 6.9 and newer.
const pidfdSignalProcessGroup = 1 << 2

// killGroup kills all that is left of the process group that p leads.
func (p *Process) killGroup() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd == nil {
		return
	}
	_ = control(p.pidfd, func(fd int) error {
		err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, pidfdSignalProcessGroup)
		if errors.Is(err, unix.EINVAL) && p.ownsGroupNumber() {
			return unix.Kill(-p.id.PID, unix.SIGKILL)
		}
		return err
	})
}

// ownsGroupNumber says that the number of p's group is not another's by now:
// the kernel reuses it only once leader and members are gone.
func (p *Process) ownsGroupNumber() bool {
	s, err := readStat(p.id.PID)
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	return s.startTime == p.id.StartTime
}

// waitGroupGone waits until no live process is in the group. The kernel tells
// of children only, and these were left to init: looking is all there is.
func waitGroupGone(pgid int, limit time.Duration) error {
	const pause = 2 * time.Millisecond
	for end := time.Now().Add(limit); ; time.Sleep(pause) {
		left := groupMembers(pgid)
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("processes %v of group %d were killed but are still there%s",
				left, pgid, stateNote(left[0]))
		}
	}
}

// groupMembers lists the live processes of the group, without its leader.
func groupMembers(pgid int) []int {
	if err := syscall.Kill(-pgid, 0); errors.Is(err, syscall.ESRCH) {
		return nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var members []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == pgid {
			continue
		}
		if s, err := readStat(pid); err == nil && s.group == pgid && s.session == pgid && !s.dead() {
			members = append(members, pid)
		}
	}
	return members
}

func stateNote(pid int) string {
	s, err := readStat(pid)
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (state %c in /proc/%d/stat)", s.state, pid)
}
