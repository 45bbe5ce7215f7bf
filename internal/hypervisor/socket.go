package hypervisor

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// backlog is how many connections may wait while a VMM serves one.
const backlog = 8

// maxSocketPath is the length of sun_path less its closing zero (unix(7)).
const maxSocketPath = 107

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
