package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// openTrusted opens a folder part by part, and makes what is missing of it
// (0755, less the umask). It refuses a way that someone other than root, or
// the user of this process, could exchange: what is at the path now stays there.
func openTrusted(path string) (*os.File, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find the whole path of %s: %w", path, err)
	}
	w := &way{rest: parts(abs)}
	for err = w.begin(); err == nil && len(w.rest) > 0; {
		err = w.step()
	}
	if err != nil {
		w.close()
		return nil, err
	}
	return w.dir, nil
}

// way is a path half walked: dir is open, its names not yet looked up are rest.
type way struct {
	dir   *os.File
	rest  []string
	links int
	// examine is for root's daemon: nothing is made, and root alone trusted.
	examine bool
}

func (w *way) close() {
	if w.dir != nil {
		_ = w.dir.Close()
	}
}

func (w *way) begin() error {
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /: %w", err)
	}
	return w.enter(os.NewFile(uintptr(fd), "/"))
}

// enter goes on from f, once it is known to be trusted.
func (w *way) enter(f *os.File) error {
	w.close()
	w.dir = f
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("look at folder: %w", err)
	}
	return w.distrust(f.Name(), info, info.Mode()&os.ModeSticky != 0)
}

func (w *way) distrust(path string, info os.FileInfo, sticky bool) error {
	if w.examine {
		return distrustFor(0, path, info, sticky)
	}
	return distrust(path, info, sticky)
}

func (w *way) step() error {
	name := w.rest[0]
	w.rest = w.rest[1:]
	path := filepath.Join(w.dir.Name(), name)
	f, err := w.open(name, path)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		return w.enter(f)
	}
	defer f.Close()
	switch {
	case err != nil:
		return fmt.Errorf("look at %s: %w", path, err)
	case info.Mode()&os.ModeSymlink == 0:
		return fmt.Errorf("%s is no folder: move it away", path)
	}
	if err := w.distrust(path, info, false); err != nil {
		return err
	}
	return w.follow(f)
}

// open opens what has that name without following it, or makes a folder.
func (w *way) open(name, path string) (*os.File, error) {
	const flags = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	at := int(w.dir.Fd())
	fd, err := unix.Openat(at, name, flags, 0)
	if errors.Is(err, unix.ENOENT) && !w.examine {
		if err := unix.Mkdirat(at, name, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("make folder %s: %w", path, err)
		}
		fd, err = unix.Openat(at, name, flags, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// maxLinks is what the kernel follows (path_resolution(7)).
const maxLinks = 40

func (w *way) follow(link *os.File) error {
	if w.links++; w.links > maxLinks {
		return fmt.Errorf("follow %s: %w", link.Name(), unix.ELOOP)
	}
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(link.Fd()), "", target)
	if err != nil {
		return fmt.Errorf("follow %s: %w", link.Name(), err)
	}
	w.rest = append(parts(string(target[:n])), w.rest...)
	if filepath.IsAbs(string(target[:n])) {
		return w.begin()
	}
	return nil
}

// parts keeps "..": behind a link it is another folder than in the text.
func parts(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

// distrust is an error about what others could change. In a sticky folder, as
// /tmp is one, nobody can exchange what belongs to another.
func distrust(path string, info os.FileInfo, sticky bool) error {
	return distrustFor(uint32(os.Geteuid()), path, info, sticky)
}

func distrustFor(self uint32, path string, info os.FileInfo, sticky bool) error {
	const others = 0o022
	uid, err := ownerOf(info)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", path, err)
	case uid != 0 && uid != self:
		return fmt.Errorf("%s belongs to uid %d, who could exchange what bield keeps there: chown it to root, or choose another folder", path, uid)
	case info.IsDir() && info.Mode().Perm()&others != 0 && !sticky:
		return fmt.Errorf("%s may be written by others (mode %04o), who could exchange what bield keeps there: chmod go-w it, or choose another folder",
			path, info.Mode().Perm())
	}
	return nil
}

func ownerOf(info os.FileInfo) (uint32, error) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, errors.New("has no owner")
	}
	return st.Uid, nil
}
