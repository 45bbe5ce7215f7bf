//go:build !amd64

package probe

import "golang.org/x/sys/unix"

// allowPorts: there are none.
func allowPorts(_, _ uintptr) error { return unix.ENOTSUP }

func outw(_, _ uint16)  {}
func inb(_ uint16) byte { return 0xff }
