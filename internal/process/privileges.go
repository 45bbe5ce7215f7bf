package process

import (
	"fmt"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// dropTo turns the calling thread into that user, for good and without
// capabilities. A thread that is that user already needs no privilege for it.
func dropTo(uid, gid uint32, groups []uint32) error {
	if err := dropBounding(rawThread); err != nil {
		return err
	}
	if err := setIDs(rawThread, uid, gid, groups); err != nil {
		return err
	}
	return setCapabilities(rawThread, 0, 0)
}

// rawCall is a system call for one thread (rawThread) or, with
// syscall.AllThreadsSyscall, for all of the process.
type rawCall func(trap, a1, a2, a3 uintptr) (r1, r2 uintptr, err syscall.Errno)

func rawThread(trap, a1, a2, a3 uintptr) (uintptr, uintptr, syscall.Errno) {
	return syscall.RawSyscall(trap, a1, a2, a3)
}

func do(call rawCall, what string, trap, a1, a2, a3 uintptr) error {
	if _, _, errno := call(trap, a1, a2, a3); errno != 0 {
		return fmt.Errorf("%s: %w", what, errno)
	}
	return nil
}

// dropBounding empties the bounding set as far as it isn't empty.
func dropBounding(call rawCall) error {
	for c := uintptr(0); ; c++ {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		if err == unix.EINVAL {
			return nil // past the last capability that this kernel knows
		}
		if err != nil {
			return fmt.Errorf("read the bounding set: %w", err)
		}
		if has == 0 {
			continue
		}
		if err := do(call, "drop a capability for good", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0); err != nil {
			return err
		}
	}
}

func setIDs(call rawCall, uid, gid uint32, groups []uint32) error {
	if err := setGroups(call, groups); err != nil {
		return err
	}
	g, u := uintptr(gid), uintptr(uid)
	if err := do(call, "set gid", unix.SYS_SETRESGID, g, g, g); err != nil {
		return err
	}
	return do(call, "set uid", unix.SYS_SETRESUID, u, u, u)
}

func setGroups(call rawCall, groups []uint32) error {
	now, err := unix.Getgroups()
	if err != nil {
		return fmt.Errorf("read groups: %w", err)
	}
	same := slices.EqualFunc(now, groups, func(a int, b uint32) bool { return a == int(b) })
	if same {
		return nil
	}
	list := unsafe.SliceData(groups)
	err = do(call, "set groups", unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(list)), 0)
	runtime.KeepAlive(list)
	return err
}

// setCapabilities sets the permitted and the effective set; the inheritable one
// becomes empty. See capset(2), version 3: two words of 32 bits.
func setCapabilities(call rawCall, permitted, effective uint64) error {
	header := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := &[2]unix.CapUserData{
		{Permitted: uint32(permitted), Effective: uint32(effective)},
		{Permitted: uint32(permitted >> 32), Effective: uint32(effective >> 32)},
	}
	err := do(call, "set capabilities", unix.SYS_CAPSET,
		uintptr(unsafe.Pointer(header)), uintptr(unsafe.Pointer(data)), 0)
	runtime.KeepAlive(header)
	runtime.KeepAlive(data)
	return err
}
