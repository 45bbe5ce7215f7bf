package process

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// raiseFiles sets a process's RLIMIT_NOFILE to want, or as near as the daemon
// may, and returns what it is.
func raiseFiles(pid int, want uint64) (uint64, error) {
	var now unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &now); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	want = min(want, filesCeiling())
	try := unix.Rlimit{Cur: want, Max: max(want, now.Max)}
	if unix.Prlimit(pid, unix.RLIMIT_NOFILE, &try, nil) == nil {
		return want, nil
	}
	got := min(want, now.Max)
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: got, Max: now.Max}, nil); err != nil {
		return 0, fmt.Errorf("raise the limit of open files to %d: %w", got, err)
	}
	return got, nil
}

// FileLimit is the RLIMIT_NOFILE that Start would reach for MaxFiles = want: less
// where the hard limit is lower and this process may not raise it. It tries that
// on itself: root of a container can have the capability and yet not the right.
func FileLimit(want uint64) (uint64, error) {
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	want = min(want, filesCeiling())
	if now.Max >= want {
		return want, nil
	}
	raised := setOwnFiles(unix.Rlimit{Cur: now.Cur, Max: want}) == nil
	if !raised {
		return now.Max, nil
	}
	if err := setOwnFiles(now); err != nil {
		return 0, fmt.Errorf("put the limit of open files back: %w", err)
	}
	return want, nil
}

// setOwnFiles goes past Go's Setrlimit, which would give this process's soft
// limit to all of its children from then on.
func setOwnFiles(limit unix.Rlimit) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// filesCeiling is the most that anybody may ask for.
func filesCeiling() uint64 {
	text, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err != nil {
		return 1 << 20 // the kernel's default
	}
	ceiling, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 1 << 20
	}
	return ceiling
}
