package share

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"bield/internal/process"
)

// Start makes the share's socket and starts virtiofsd on it. command is what
// starts virtiofsd: the program, absolute, or a loader with its arguments. A
// VMM may connect as soon as Start has returned; when it does, and later goes
// away, virtiofsd ends.
func Start(ctx context.Context, command []string, cfg Config) (*process.Process, error) {
	p, err := start(ctx, command, cfg)
	if err != nil {
		return nil, fmt.Errorf("serve share %s: %w", cfg.Tag, err)
	}
	return p, nil
}

func start(ctx context.Context, command []string, cfg Config) (*process.Process, error) {
	if len(command) == 0 {
		return nil, errors.New("no virtiofsd: run `bield setup`")
	}
	if cfg.Dir == nil {
		return nil, errors.New("no folder to serve")
	}
	files, err := process.FileLimit(wantFiles)
	if err != nil {
		return nil, err
	}
	listener, err := listen(cfg.Socket, cfg.SocketUID, cfg.SocketGID)
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	handles := files < enoughFiles
	p, err := process.Start(ctx, process.Command{
		Path: command[0], Args: append(command[1:len(command):len(command)], Arguments(cfg, handles)...),
		DirFile: cfg.Dir, UID: cfg.UID, GID: cfg.GID, Files: []*os.File{listener}, LogPath: cfg.Log,
		NewNetNS: true, IDMap: cfg.idMap(), MaxFiles: wantFiles, FileHandles: handles, Note: cfg.Note,
		Cgroups: cfg.Cgroups,
		// Its own sandbox makes mounts, which rules of files would forbid.
		Landlock: &process.Landlock{},
	})
	if err != nil {
		_ = os.Remove(cfg.Socket)
		return nil, explain(err)
	}
	return p, nil
}

// explain says what to do about a virtiofsd that can't be run.
func explain(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: install virtiofsd 1.13 or newer with `bield setup`", err)
	}
	return err
}

// listen makes a listening unix socket that only its owner can connect to, in
// the place of a stale one.
func listen(path string, uid, gid uint32) (*os.File, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket %s: %w", path, err)
	}
	// bind gives the file the mode of the socket (unix(7)).
	if err := unix.Fchmod(fd, 0o600); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make socket %s: %w", path, err)
	}
	if err := bind(fd, path, uid, gid); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make socket %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// maxSocketPath is the length of sun_path less its closing zero (unix(7)).
const maxSocketPath = 107

func bind(fd int, path string, uid, gid uint32) error {
	if len(path) > maxSocketPath {
		return fmt.Errorf("the path is longer than %d bytes: choose a shorter BIELD_RUN_DIR", maxSocketPath)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return err
	}
	err := unix.Lchown(path, int(uid), int(gid))
	if err == nil {
		err = unix.Listen(fd, 1)
	}
	if err != nil {
		_ = os.Remove(path)
	}
	return err
}

// removeStale removes what an earlier boot left at path, if it is a socket.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil && info.Mode().Type() != os.ModeSocket {
		err = fmt.Errorf("%s is in the way of a socket and is none: remove it", path)
	}
	if err != nil {
		return err
	}
	return os.Remove(path)
}
