package share

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"bield/internal/spec"
)

// openAs opens a folder with the rights of that user and in those groups.
func openAs(path string, id spec.ID, groups []uint32) (*os.File, error) {
	return asUser(id, groups, func() (*os.File, error) { return openFolder(path) })
}

// asUser opens as that user. One that is not root gets none of the daemon's
// capabilities for files: setting the file system uid takes them from the thread
// (capabilities(7)).
func asUser(id spec.ID, groups []uint32, open func() (*os.File, error)) (*os.File, error) {
	if id.UID == 0 {
		return open()
	}
	type result struct {
		file *os.File
		err  error
	}
	done := make(chan result, 1)
	go func() {
		// The thread is never unlocked: it ends with its goroutine, and its
		// credentials with it.
		runtime.LockOSThread()
		if err := becomeForFiles(id, groups); err != nil {
			done <- result{nil, err}
			return
		}
		file, err := open()
		done <- result{file, err}
	}()
	r := <-done
	return r.file, r.err
}

// openFolder follows no link anywhere on the way. config has resolved them: what
// is one now was none when the folder was checked. The links of /proc lead to
// open files of the daemon itself.
func openFolder(path string) (*os.File, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("open %s: a symbolic link leads there, which was none when the file was read: look at what it is now, and run `bield up` again", path)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// reopenAs opens an open folder again, and no path.
func reopenAs(dir *os.File, id spec.ID) (*os.File, error) {
	return asUser(id, nil, func() (*os.File, error) {
		fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: dir.Name(), Err: err}
		}
		return os.NewFile(uintptr(fd), dir.Name()), nil
	})
}

// becomeForFiles sets the file system ids of this thread alone, by raw system
// calls: Go's own act on all threads.
func becomeForFiles(id spec.ID, groups []uint32) error {
	first := unsafe.SliceData(groups)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(first)), 0); errno != 0 {
		return fmt.Errorf("set the groups of a thread: %w", errno)
	}
	if err := setFSID(unix.SYS_SETFSGID, id.GID); err != nil {
		return err
	}
	return setFSID(unix.SYS_SETFSUID, id.UID)
}

// setFSID sets an id. The call has no error; asking for the invalid id tells the
// present one (setfsuid(2)).
func setFSID(trap uintptr, id uint32) error {
	const invalid = ^uintptr(0)
	_, _, _ = unix.RawSyscall(trap, uintptr(id), 0, 0)
	if now, _, _ := unix.RawSyscall(trap, invalid, 0, 0); uint32(now) != id {
		return fmt.Errorf("set the file system id of a thread to %d: %w", id, unix.EPERM)
	}
	return nil
}

// Open opens a folder of bield's own to serve: the image's, or one that bield
// has made. It is not followed if it is a symbolic link, nor is any of /proc's.
func Open(path string) (*os.File, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}
