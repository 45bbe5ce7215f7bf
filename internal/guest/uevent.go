package guest

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// uevents tells that the kernel added, removed or changed a device. What it
// was is not looked at: whoever waits looks for what he needs again.
type uevents struct{ f *os.File }

// kernelGroup is the kernel's own multicast group of NETLINK_KOBJECT_UEVENT
// (lib/kobject_uevent.c).
const kernelGroup = 1

func openUevents() (*uevents, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("open the kernel's device events: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("listen to the kernel's device events: %w", err)
	}
	return &uevents{f: os.NewFile(uintptr(fd), "uevents")}, nil
}

func (u *uevents) close() { _ = u.f.Close() }

// next waits for an event. An overrun counts as one.
func (u *uevents) next() error {
	var buf [2048]byte
	_, err := u.f.Read(buf[:])
	if isErrno(err, unix.ENOBUFS) {
		return nil
	}
	return err
}

// waitForDevice calls look at once and after every device event until it is
// content, and returns its last error when ctx ends first.
func waitForDevice(ctx context.Context, look func() error) error {
	err := look()
	if err == nil {
		return nil
	}
	events, openErr := openUevents()
	if openErr != nil {
		return fmt.Errorf("%w (%w)", err, openErr)
	}
	defer events.close()
	stop := context.AfterFunc(ctx, events.close)
	defer stop()
	// Look again: it may have come before the socket was open.
	for err = look(); err != nil; err = look() {
		if events.next() != nil {
			return err
		}
	}
	return nil
}
