package witness

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// File is what lies in a folder under one name; of a symbolic link the link.
type File struct {
	UID  uint32
	Mode uint32 // with the file's type, as stat(2) has it
}

// Look says what a name in an open folder is; nil if there is nothing.
func Look(dir *os.File, name string) (*File, error) {
	if err := plain(name); err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at %s in %s: %w", name, dir.Name(), err)
	}
	return &File{UID: st.Uid, Mode: st.Mode}, nil
}

// LookAbove is Look for the folder that contains dir.
func LookAbove(dir *os.File, name string) (found *File, err error) {
	err = inAbove(dir, func(above *os.File) error {
		found, err = Look(above, name)
		return err
	})
	return found, err
}

// RemoveAbove removes a file from the folder that contains dir, if it is there.
func RemoveAbove(dir *os.File, name string) error {
	if err := plain(name); err != nil {
		return err
	}
	return inAbove(dir, func(above *os.File) error {
		if err := remove(above, name); err != nil {
			return fmt.Errorf("remove %s from above %s: %w", name, dir.Name(), err)
		}
		return nil
	})
}

func inAbove(dir *os.File, do func(above *os.File) error) error {
	fd, err := unix.Openat(int(dir.Fd()), "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("look above %s: %w", dir.Name(), err)
	}
	above := os.NewFile(uintptr(fd), dir.Name()+"/..")
	defer above.Close()
	return do(above)
}

// maxLeft bounds how many names of a folder are read.
const maxLeft = 1 << 20

// Sweep removes the files of an open folder whose names begin with prefix. A
// name is that of the folder's own entry: no link is followed.
func Sweep(dir *os.File, prefix string) error {
	if err := plain(prefix); err != nil {
		return err
	}
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("list %s: %w", dir.Name(), err)
	}
	list := os.NewFile(uintptr(fd), dir.Name())
	defer list.Close()
	var failures []error
	for read := 0; read < maxLeft; {
		names, err := list.Readdirnames(1000)
		read += len(names)
		for _, name := range names {
			if strings.HasPrefix(name, prefix) {
				failures = append(failures, remove(dir, name))
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			failures = append(failures, err)
			break
		}
	}
	if err := errors.Join(failures...); err != nil {
		return fmt.Errorf("remove what verify made in %s: %w", dir.Name(), err)
	}
	return nil
}

// remove takes away a file or an empty folder.
func remove(dir *os.File, name string) error {
	err := unix.Unlinkat(int(dir.Fd()), name, 0)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func plain(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%q is no name in a folder", name)
	}
	return nil
}
