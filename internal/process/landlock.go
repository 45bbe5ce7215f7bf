package process

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Landlock confines a program, for good, to what it names: landlock(7). The
// kernel decides how much of it there is (LandlockVersion); the rest is left out.
//
// Descriptors that the program inherits stay what they are.
type Landlock struct {
	// Files, when false, leaves the file system alone: mounts, which a program
	// under rules of files may not change, stay possible. The rest of this
	// struct is then not looked at.
	Files bool `json:",omitempty"`
	// Exec lists files, and folders with all below them, that it may read and
	// execute; the program itself and what loads it must be among them.
	Exec []string `json:",omitempty"`
	// Read lists what it may read, Write what it may also write: existing files
	// and devices, and below folders new files and sockets. What is not there is
	// left out.
	Read, Write []string `json:",omitempty"`
}

// What each version of the interface has brought, linux/landlock.h.
const (
	landlockExec  = unix.LANDLOCK_ACCESS_FS_EXECUTE | landlockRead
	landlockRead  = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	landlockMake  = unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE
	landlockWrite = landlockRead | landlockMake | unix.LANDLOCK_ACCESS_FS_WRITE_FILE |
		unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	// landlockFile is what a rule for anything but a folder may name.
	landlockFile = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE |
		unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV

	landlockFirst = unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1 // version 1: all bits up to that
)

// LandlockVersion is the version of the kernel's Landlock, 0 where it has none or
// has it turned off.
func LandlockVersion() int {
	version, _, errno := syscall.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(version)
}

// handled is what a domain denies unless a rule allows it, with that version.
func (l Landlock) handled(version int) unix.LandlockRulesetAttr {
	var a unix.LandlockRulesetAttr
	if l.Files {
		a.Handled_access_fs = landlockFirst
		if version >= 2 {
			a.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_REFER
		}
		if version >= 3 {
			a.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
		}
		if version >= 5 {
			a.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
		}
	}
	if version >= 4 {
		a.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	if version >= 6 {
		a.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	}
	return a
}

// attrSize is how much of the struct a version knows: it refuses what is longer.
func attrSize(version int) uintptr {
	switch {
	case version >= 6:
		return unsafe.Offsetof(unix.LandlockRulesetAttr{}.Quiet_access_fs)
	case version >= 4:
		return unsafe.Offsetof(unix.LandlockRulesetAttr{}.Scoped)
	default:
		return unsafe.Offsetof(unix.LandlockRulesetAttr{}.Handled_access_net)
	}
}

// restrict puts the calling thread, which has no_new_privs, under the rules.
func (l Landlock) restrict() error {
	version := LandlockVersion()
	attr := l.handled(version)
	if attr == (unix.LandlockRulesetAttr{}) {
		return nil // nothing that this kernel could deny
	}
	fd, _, errno := syscall.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), attrSize(version), 0)
	if errno != 0 {
		return fmt.Errorf("make Landlock rules: %w", errno)
	}
	defer unix.Close(int(fd))
	if err := l.addRules(int(fd), attr.Handled_access_fs); err != nil {
		return err
	}
	if _, _, errno := syscall.RawSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return fmt.Errorf("enter Landlock: %w", errno)
	}
	return nil
}

func (l Landlock) addRules(ruleset int, handled uint64) error {
	if !l.Files {
		return nil
	}
	for _, list := range []struct {
		paths  []string
		access uint64
	}{{l.Exec, landlockExec}, {l.Read, landlockRead}, {l.Write, landlockWrite}} {
		for _, path := range list.paths {
			if err := allowBeneath(ruleset, path, list.access&handled); err != nil {
				return fmt.Errorf("allow %s by Landlock: %w", path, err)
			}
		}
	}
	return nil
}

// allowBeneath adds the rule for a path. One that is not there, or that this user
// can't reach, gives nothing to allow.
func allowBeneath(ruleset int, path string, access uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		access &= landlockFile
	}
	rule := &unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(fd)}
	_, _, errno := syscall.RawSyscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH,
		uintptr(unsafe.Pointer(rule)), 0, 0, 0)
	runtime.KeepAlive(rule)
	if errno != 0 {
		return errno
	}
	return nil
}
