package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"bield/internal/guestconfig"
)

const portsDir = "/sys/class/virtio-ports"

// openPort opens the virtio-serial port of that name as soon as it exists.
func openPort(ctx context.Context, name string) (*os.File, error) {
	var f *os.File
	err := waitForDevice(ctx, func() error {
		device, err := findPort(portsDir, name)
		if err != nil {
			return err
		}
		f, err = os.OpenFile("/dev/"+device, os.O_RDWR|unix.O_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open the link's port: %w", err)
	}
	return f, nil
}

// openLink opens the guest link's port when a host is at its other end.
func openLink(ctx context.Context) (io.ReadWriteCloser, error) {
	port, err := openPort(ctx, guestconfig.LinkPort)
	if err != nil {
		return nil, err
	}
	if err := waitForHost(ctx, port); err != nil {
		_ = port.Close()
		return nil, err
	}
	return port, nil
}

// findPort returns the device of the port that the VMM gave this name.
func findPort(dir, name string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name(), "name"))
		if err == nil && strings.TrimSpace(string(b)) == name {
			return e.Name(), nil
		}
	}
	return "", fmt.Errorf("no port is called %q", name)
}

// errLinkClosed means that the wait for a host was ended by closing the port.
var errLinkClosed = errors.New("port closed")

// waitForHost returns when a host has the other end of the port open. Without
// one a port reads as at its end and hangs up in poll(2)
// (drivers/char/virtio_console.c); its coming and going wake whoever polls.
func waitForHost(ctx context.Context, port *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = port.Close() })
	defer stop()
	raw, err := port.SyscallConn()
	if err != nil {
		return fmt.Errorf("wait for a host: %w", err)
	}
	// The runtime's poller waits for writability, which a host's coming brings.
	if err := raw.Write(hostConnected); err != nil {
		return fmt.Errorf("wait for a host: %w", errors.Join(errLinkClosed, err))
	}
	return nil
}

func hostConnected(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	_, err := unix.Poll(fds, 0)
	return err == nil && fds[0].Revents&unix.POLLHUP == 0
}
