package probe

import "golang.org/x/sys/unix"

// allowPorts lets this thread use ports (ioperm(2)).
func allowPorts(first, count uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOPERM, first, count, 1); errno != 0 {
		return errno
	}
	return nil
}

// outw writes two bytes to a port, inb reads one.
func outw(port, value uint16)
func inb(port uint16) byte
