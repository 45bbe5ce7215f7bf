package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// backlog is how many connections may wait while a VMM serves one.
const backlog = 8

// maxSocketPath is the length of sun_path less its closing zero (unix(7)).
const maxSocketPath = 107

// ErrInUse says that a VMM runs already with that run folder.
var ErrInUse = errors.New("a VMM runs there already")

// A process that is just being made has copies of all that its maker has open,
// until it executes its program: for such a moment the dead look alive.
const (
	claimPatience = time.Second
	claimPause    = 10 * time.Millisecond
)

// Claim reserves a run folder for one Start until released. control is the socket
// there that every running VMM of the driver listens on, hanging or not. The error
// wraps ErrInUse, and nothing in the folder was touched.
func Claim(dir, control string) (release func(), err error) {
	folder, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open the run folder: %w", err)
	}
	began := time.Now()
	for err = claim(folder, control); errors.Is(err, ErrInUse) && time.Since(began) < claimPatience; err = claim(folder, control) {
		time.Sleep(claimPause)
	}
	if err != nil {
		_ = folder.Close()
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return func() { _ = folder.Close() }, nil
}

func claim(folder *os.File, control string) error {
	err := unix.Flock(int(folder.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) || err == nil && listens(control) {
		return ErrInUse
	}
	return err
}

// listens says whether somebody listens at a socket. One that is stale refuses.
func listens(path string) bool {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	return err == nil || errors.Is(err, unix.EAGAIN) // a full backlog
}

// Listen makes a socket that root alone can connect to, in the place of a stale
// one, for a VMM to inherit. The folder is root's: nobody else can have put
// something there.
func Listen(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("remove the stale socket: %w", err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	if err := bind(fd, path); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("make socket %s: %w", path, err)
	}
	return f, nil
}

func bind(fd int, path string) error {
	if err := CheckSocketPath(path); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, 0o600); err != nil { // bind gives it to the file
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return err
	}
	return unix.Listen(fd, backlog)
}

// CheckSocketPath refuses paths that no unix socket can have.
func CheckSocketPath(path string) error {
	if len(path) > maxSocketPath {
		return fmt.Errorf("the path %s is longer than %d bytes: choose a shorter BIELD_RUN_DIR", path, maxSocketPath)
	}
	return nil
}

// Bounds of Dial.
const (
	dialTimeout = 10 * time.Second
	dialPause   = 10 * time.Millisecond
)

// Dial connects to a VMM's socket. Where as many wait there as may, it waits too:
// QEMU lets two, one being served.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout, fmt.Errorf("it takes no connection within %s", dialTimeout))
	defer cancel()
	for {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", path)
		if err == nil || ctx.Err() == nil && !errors.Is(err, unix.EAGAIN) {
			return conn, err
		}
		select { // no event tells of room
		case <-time.After(dialPause):
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to %s: %w", path, context.Cause(ctx))
		}
	}
}
