package share

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"bield/internal/spec"
)

// openAs opens a folder with the rights of that user and no supplementary
// group. A user that is not root gets none of the daemon's capabilities for
// files: setting the file system uid takes them from the thread
// (capabilities(7)).
func openAs(path string, id spec.ID) (*os.File, error) {
	if id.UID == 0 {
		return openFolder(path)
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
		if err := becomeForFiles(id); err != nil {
			done <- result{nil, err}
			return
		}
		file, err := openFolder(path)
		done <- result{file, err}
	}()
	r := <-done
	return r.file, r.err
}

func openFolder(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// becomeForFiles sets the file system ids of this thread alone, by raw system
// calls: Go's own act on all threads.
func becomeForFiles(id spec.ID) error {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return fmt.Errorf("drop the groups of a thread: %w", errno)
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
// has made. It is not followed if it is a symbolic link.
func Open(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}
