package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Examine says why bieldd, as root, would refuse the folder at path as its own:
// what is not there yet is good. It makes nothing. Where the caller may not
// look, the error is fs.ErrPermission.
func Examine(path string) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("find the whole path of %s: %w", path, err)
	}
	w := &way{rest: parts(filepath.Dir(abs)), examine: true}
	defer w.close()
	for err = w.begin(); err == nil && len(w.rest) > 0; {
		err = w.step()
	}
	if err == nil {
		err = w.last(filepath.Base(abs))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// last looks at the folder itself, which must be no link.
func (w *way) last(name string) error {
	path := filepath.Join(w.dir.Name(), name)
	fd, err := unix.Openat(int(w.dir.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return fmt.Errorf("look at %s: %w", path, err)
	case !info.IsDir():
		return fmt.Errorf("%s is no folder, or a symbolic link to one: move it away", path)
	}
	return w.distrust(path, info, false)
}
