package state

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Owned is an open folder of a user's, who may exchange whatever is in it at
// any time. All is done by the handle, and nothing in it is followed.
type Owned struct {
	dir      *os.File
	uid, gid uint32
}

// OpenOwned opens the folder at path, which belongs to uid or is made for
// them. One that root made for nobody yet, and that is empty, is given to them;
// any other is refused. Nobody but root may be able to exchange the folder
// itself.
func OpenOwned(path string, mode os.FileMode, uid, gid uint32) (*Owned, error) {
	parent, err := openTrusted(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("make folder %s: %w", path, err)
	}
	defer parent.Close()
	return openOwned(parent, filepath.Base(path), mode, uid, gid)
}

// Folder is OpenOwned for a folder in this one, and for the same user.
func (o *Owned) Folder(name string, mode os.FileMode) (*Owned, error) {
	return openOwned(o.dir, name, mode, o.uid, o.gid)
}

// Close closes the folder.
func (o *Owned) Close() error { return o.dir.Close() }

// MakeOwned is OpenOwned for a folder that is to be there.
func MakeOwned(path string, mode os.FileMode, uid, gid uint32) error {
	o, err := OpenOwned(path, mode, uid, gid)
	if err != nil {
		return err
	}
	return o.Close()
}

func openOwned(parent *os.File, name string, mode os.FileMode, uid, gid uint32) (*Owned, error) {
	path := filepath.Join(parent.Name(), name)
	err := unix.Mkdirat(int(parent.Fd()), name, uint32(mode.Perm()))
	made := err == nil
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("make folder %s: %w", path, err)
	}
	dir, err := openFolder(parent, name)
	if err != nil {
		return nil, fmt.Errorf("open folder %s: %w", path, err)
	}
	o := &Owned{dir, uid, gid}
	if err := o.settle(made, mode); err != nil {
		_ = dir.Close()
		return nil, fmt.Errorf("folder %s: %w", path, err)
	}
	return o, nil
}

// openFolder follows no link.
func openFolder(parent *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(parent.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil, errors.New("is no folder, or a symbolic link to one: move it away")
	case err != nil:
		return nil, err
	}
	return os.NewFile(uintptr(fd), filepath.Join(parent.Name(), name)), nil
}

// settle gives a folder to its user that may be given. That it was made a
// moment ago does not say that it is still the same one.
func (o *Owned) settle(made bool, mode os.FileMode) error {
	info, err := o.dir.Stat()
	if err != nil {
		return err
	}
	owner, err := ownerOf(info)
	if err != nil {
		return err
	}
	if owner == o.uid && !made {
		return nil
	}
	if owner != o.uid {
		if err := o.mayTake(owner, info); err != nil {
			return err
		}
	}
	return errors.Join(o.dir.Chmod(mode), o.dir.Chown(int(o.uid), int(o.gid)))
}

func (o *Owned) mayTake(owner uint32, info os.FileInfo) error {
	_, err := o.dir.Readdirnames(1)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return err
	case owner == uint32(os.Geteuid()) && errors.Is(err, io.EOF):
		return distrust(o.dir.Name(), info, false)
	}
	return fmt.Errorf("belongs to uid %d and not to uid %d, for whom bield needs a folder of this name: if it is theirs, `chown -R %[2]d` it, or else move it away",
		owner, o.uid)
}

// Read reads a file of the user's: an ordinary one of at most limit bytes.
// Whatever the user has put there instead is an error, and never waited for.
func (o *Owned) Read(name string, limit int64) ([]byte, error) {
	const flags = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOFOLLOW | unix.O_NOCTTY | unix.O_CLOEXEC
	fd, err := unix.Openat(int(o.dir.Fd()), name, flags, 0)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
		return nil, errNoFile
	}
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if err := o.checkFile(f, limit); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = errNoFile
	}
	return data, err
}

var errNoFile = errors.New("is no ordinary file of its kind: move it away")

func (o *Owned) checkFile(f *os.File, limit int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	owner, err := ownerOf(info)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular(), info.Size() > limit:
		return errNoFile
	case owner != o.uid && owner != 0: // a hard link to another's
		return fmt.Errorf("belongs to uid %d and not to uid %d: chown it, or move it away", owner, o.uid)
	}
	return nil
}

// Write replaces a file of the user's. It writes beside the name and renames,
// so that a full disk leaves no half a file.
func (o *Owned) Write(name string, data []byte, mode os.FileMode) (err error) {
	at, temporary := int(o.dir.Fd()), name+unfinished
	if err := unix.Unlinkat(at, temporary, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s: %w", temporary, err)
	}
	fd, err := unix.Openat(at, temporary, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("make %s: %w", temporary, err)
	}
	if err := o.fill(os.NewFile(uintptr(fd), temporary), data, mode); err != nil {
		_ = unix.Unlinkat(at, temporary, 0)
		return err
	}
	if err := unix.Renameat(at, temporary, at, name); err != nil {
		_ = unix.Unlinkat(at, temporary, 0)
		return fmt.Errorf("rename %s: %w", temporary, err)
	}
	return o.dir.Sync()
}

func (o *Owned) fill(f *os.File, data []byte, mode os.FileMode) error {
	_, err := f.Write(data)
	if err == nil {
		err = errors.Join(f.Chmod(mode), f.Chown(int(o.uid), int(o.gid)), f.Sync())
	}
	return errors.Join(err, f.Close())
}
