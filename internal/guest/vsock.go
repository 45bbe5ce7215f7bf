package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const (
	vsockDevice = "/dev/vsock"
	// noCID is VMADDR_CID_ANY of linux/vm_sockets.h: what a kernel without a
	// vsock device says its address is.
	noCID = ^uint32(0)
	// vsockBacklog is how many hosts may wait while one is served.
	vsockBacklog = 8
)

// listener takes the host's connections, one at a time: the next one waits
// until somebody accepts it.
type listener struct {
	file *os.File
	// fromHost tells the host from others who connect.
	fromHost func(peer unix.Sockaddr) bool
}

// listenVsock listens on a port of AF_VSOCK, all of whose connections are
// streams. It fails where no host could ever connect.
func listenVsock(port uint32) (*listener, error) {
	if err := checkVsock(vsockDevice); err != nil {
		return nil, err
	}
	fd, err := bindVsock(port)
	if err != nil {
		return nil, fmt.Errorf("listen on vsock port %d: %w", port, err)
	}
	return newListener(fd, isHost), nil
}

// checkVsock wants a vsock device in this VM: without one Linux listens as well.
func checkVsock(device string) error {
	f, err := os.Open(device)
	if errors.Is(err, os.ErrNotExist) {
		return errors.New("the image's kernel has no vsock, over which the guest link is to come: its module is vmw_vsock_virtio_transport")
	}
	if err != nil {
		return fmt.Errorf("look for a vsock device: %w", err)
	}
	defer f.Close()
	cid, err := unix.IoctlGetUint32(int(f.Fd()), unix.IOCTL_VM_SOCKETS_GET_LOCAL_CID)
	if err != nil {
		return fmt.Errorf("ask for this VM's vsock address: %w", err)
	}
	if cid == noCID {
		return errors.New("the VM has no vsock device, over which the guest link is to come")
	}
	return nil
}

func bindVsock(port uint32) (int, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	if err := unix.Listen(fd, vsockBacklog); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// isHost holds for the host alone: the guest's own processes come from the
// guest's address or VMADDR_CID_LOCAL, VMs in the guest from theirs.
func isHost(peer unix.Sockaddr) bool {
	vm, ok := peer.(*unix.SockaddrVM)
	return ok && vm.CID == unix.VMADDR_CID_HOST
}

// newListener owns fd, a listening socket that doesn't block.
func newListener(fd int, fromHost func(unix.Sockaddr) bool) *listener {
	return &listener{file: os.NewFile(uintptr(fd), "guest link"), fromHost: fromHost}
}

func (l *listener) close() { _ = l.file.Close() }

// accept waits for a connection of the host's. It closes the listener when ctx
// ends first.
func (l *listener) accept(ctx context.Context) (io.ReadWriteCloser, error) {
	stop := context.AfterFunc(ctx, l.close)
	defer stop()
	for {
		conn, err := l.next()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil, context.Cause(ctx)
		case isErrno(err, unix.ECONNABORTED, unix.EINTR), errors.Is(err, errStranger):
			// it went away while it waited, or was sent away
		case err != nil:
			return nil, fmt.Errorf("wait for a host: %w", err)
		default:
			return conn, nil
		}
	}
}

// errStranger means that a peer that is not the host was sent away.
var errStranger = errors.New("not the host")

// next waits for one connection.
func (l *listener) next() (*os.File, error) {
	raw, err := l.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, peer := -1, unix.Sockaddr(nil)
	var acceptErr error
	err = raw.Read(func(listening uintptr) bool {
		fd, peer, acceptErr = unix.Accept4(int(listening), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		return !isErrno(acceptErr, unix.EAGAIN)
	})
	if err := errors.Join(err, acceptErr); err != nil {
		return nil, err
	}
	if !l.fromHost(peer) {
		_ = unix.Close(fd)
		return nil, errStranger
	}
	return os.NewFile(uintptr(fd), "host"), nil
}
