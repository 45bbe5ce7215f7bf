package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// launchName is argv[0] of a launcher.
const launchName = "bield-launch"

// orders is what a launcher is to do. Its descriptors are 0 to 2, Dup files of
// the program from 3 on, then the pipe with these orders, the status pipe and,
// with DirFile, the working directory.
type orders struct {
	Path     string
	Args     []string
	Env      []string
	Dir      string
	DirFile  bool
	UID, GID uint32 // inside the user namespace, if any
	Groups   []uint32
	UserNS   bool
	Dup      int
	// Handles makes the launcher stay and serve file handles.
	Handles *handleOrders `json:",omitempty"`
	// Notify makes it hand over file handles: the last of the Dup files is the
	// socket for the listener, and not the program's.
	Notify   bool
	Landlock *Landlock `json:",omitempty"`
	Limits   Limits
}

// MaybeLaunch does not return if this process is a launcher. main and TestMain
// call it before anything else.
func MaybeLaunch() {
	if len(os.Args) != 2 || os.Args[0] != launchName {
		return
	}
	base, err := strconv.Atoi(os.Args[1])
	if err != nil || base < 3 {
		fmt.Fprintln(os.Stderr, "bield-launch is not to be started by hand")
		os.Exit(2)
	}
	// Credentials belong to threads: all is done on this one, and exec ends
	// the others. The death signal of a child is tied to it, too.
	runtime.LockOSThread()
	status := os.NewFile(uintptr(base+1), "status")
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(unsafe.StringData(launchName+"\x00"))), 0, 0, 0)
	err = launch(base, status)
	reportFailure(status, err)
	os.Exit(1)
}

func launch(base int, status *os.File) error {
	if err := unix.CloseRange(uint(base), ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("mark descriptors: %w", err)
	}
	if _, err := status.Write([]byte{'+'}); err != nil {
		return fmt.Errorf("report to the daemon: %w", err)
	}
	var o orders
	if err := readOrders(base, &o); err != nil {
		return fmt.Errorf("read orders: %w", err)
	}
	if o.Handles != nil {
		return superviseHandles(o, base, status)
	}
	if err := o.enterDir(base); err != nil {
		return err
	}
	if err := o.giveUpPrivileges(); err != nil {
		return err
	}
	if o.Notify {
		if err := handOverHandles(base - 1); err != nil {
			return err
		}
	}
	if o.Landlock != nil {
		if err := o.Landlock.restrict(); err != nil {
			return err
		}
	}
	if err := syscall.Exec(o.Path, o.Args, o.Env); err != nil {
		return fmt.Errorf("execute: %w", err)
	}
	return nil
}

func readOrders(fd int, o *orders) error {
	pipe := os.NewFile(uintptr(fd), "orders")
	defer pipe.Close()
	return json.NewDecoder(pipe).Decode(o)
}

func (o orders) enterDir(base int) error {
	if o.DirFile {
		if err := unix.Fchdir(base + 2); err != nil {
			return fmt.Errorf("enter the working directory: %w", err)
		}
		return nil
	}
	if err := unix.Chdir(o.Dir); err != nil {
		return fmt.Errorf("enter %s: %w", o.Dir, err)
	}
	return nil
}

// giveUpPrivileges turns this thread into what the program is to be.
func (o orders) giveUpPrivileges() error {
	unix.Umask(0o077)
	if err := setLimits(); err != nil {
		return err
	}
	if err := o.Limits.set(); err != nil {
		return err
	}
	if !o.UserNS {
		if err := dropTo(o.UID, o.GID, o.Groups); err != nil {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	if o.Notify {
		// The program is of no use without the launcher that serves it.
		if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
			return fmt.Errorf("set the death signal: %w", err)
		}
	}
	return nil
}

// setLimits forbids core dumps and makes the hard limit of open files, which
// the daemon has raised, the soft one. syscall.Setrlimit also keeps Go from
// putting the old one back on exec.
func setLimits() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("set the limit of open files: %w", err)
	}
	return nil
}

// set lowers limits. The program can't raise them again.
func (l Limits) set() error {
	for _, limit := range []struct {
		name     string
		resource int
		value    uint64
	}{
		{"processes", unix.RLIMIT_NPROC, l.Processes},
		{"the size of files", unix.RLIMIT_FSIZE, l.FileSize},
		{"open files", unix.RLIMIT_NOFILE, l.Files},
	} {
		if limit.value == 0 {
			continue
		}
		var now syscall.Rlimit
		if err := syscall.Getrlimit(limit.resource, &now); err != nil {
			return fmt.Errorf("read the limit of %s: %w", limit.name, err)
		}
		now.Max = min(now.Max, limit.value)
		now.Cur = now.Max
		if err := syscall.Setrlimit(limit.resource, &now); err != nil {
			return fmt.Errorf("limit %s: %w", limit.name, err)
		}
	}
	return nil
}

func reportFailure(status *os.File, err error) {
	f := failure{Op: "launch", Text: fmt.Sprint(err)}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		f.Errno = errno
		f.Op = opOf(err, errno)
	}
	_ = json.NewEncoder(status).Encode(f)
}

// opOf is the text of err without its errno, which travels as a number.
func opOf(err error, errno syscall.Errno) string {
	text, suffix := err.Error(), ": "+errno.Error()
	if len(text) > len(suffix) && text[len(text)-len(suffix):] == suffix {
		return text[:len(text)-len(suffix)]
	}
	return text
}
