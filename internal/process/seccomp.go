package process

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Structures of linux/seccomp.h.
type (
	seccompData struct {
		nr                 int32
		arch               uint32
		instructionPointer uint64
		args               [6]uint64
	}
	seccompNotif struct {
		id    uint64
		pid   uint32 // thread id, seen from the listener's pid namespace
		flags uint32
		data  seccompData
	}
	seccompNotifResp struct {
		id    uint64
		val   int64
		error int32
		flags uint32
	}
	seccompNotifAddFD struct {
		id         uint64
		flags      uint32
		srcFD      uint32
		newFD      uint32
		newFDFlags uint32
	}
	seccompNotifSizes struct{ notif, resp, data uint16 }
)

// auditArch is the AUDIT_ARCH_ constant of this program, 0 if bield doesn't
// know it.
func auditArch() uint32 {
	switch runtime.GOARCH {
	case "amd64":
		return unix.AUDIT_ARCH_X86_64
	case "arm64":
		return unix.AUDIT_ARCH_AARCH64
	}
	return 0
}

// handOverHandles makes open_by_handle_at and name_to_handle_at of this thread,
// and of the program it is about to execute, questions to the launcher at the
// other end of the socket, and closes the socket.
func handOverHandles(socket int) error {
	listener, err := installFilter()
	if err != nil {
		return fmt.Errorf("hand over file handles: %w", err)
	}
	defer unix.Close(listener)
	defer unix.Close(socket)
	if err := unix.Sendmsg(socket, []byte{0}, unix.UnixRights(listener), nil, 0); err != nil {
		return fmt.Errorf("send the seccomp listener: %w", err)
	}
	return nil
}

// installFilter installs the filter and returns its listener. System calls of
// another architecture pass: without a capability they open nothing.
func installFilter() (int, error) {
	const offsetNr, offsetArch = 0, 4
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offsetArch},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: auditArch(), Jf: 4},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offsetNr},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_OPEN_BY_HANDLE_AT, Jt: 1},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_NAME_TO_HANDLE_AT, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	if err := checkNotifSizes(); err != nil {
		return -1, err
	}
	prog := &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(prog)))
	runtime.KeepAlive(program)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// checkNotifSizes refuses a kernel whose structures are larger than ours.
func checkNotifSizes() error {
	var sizes seccompNotifSizes
	if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_NOTIF_SIZES, 0,
		uintptr(unsafe.Pointer(&sizes))); errno != 0 {
		return errno
	}
	if uintptr(sizes.notif) != unsafe.Sizeof(seccompNotif{}) || uintptr(sizes.resp) != unsafe.Sizeof(seccompNotifResp{}) {
		return fmt.Errorf("this kernel's seccomp notifications have another size: %+v", sizes)
	}
	return nil
}

// receiveListener takes the listener from the socket, where the program's
// launcher has put it before it executed the program.
func receiveListener(socket int) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 1), oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("receive the seccomp listener: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return -1, fmt.Errorf("receive the seccomp listener: %d messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("receive the seccomp listener: %d descriptors: %w", len(fds), err)
	}
	return fds[0], nil
}

func notifRecv(listener int) (*seccompNotif, error) {
	n := new(seccompNotif)
	return n, ioctlPointer(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(n))
}

// notifValid says whether the asking thread still waits: only then is what was
// read of it its own.
func notifValid(listener int, id uint64) bool {
	return ioctlPointer(listener, unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&id)) == nil
}

// notifGiveFD answers with a copy of fd. It takes two steps: Linux (6.18) answers 0
// where SECCOMP_ADDFD_FLAG_SEND is interrupted, by a signal or the freezer.
func notifGiveFD(listener int, id uint64, fd int, flags uint32) error {
	copied, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_ADDFD,
		uintptr(unsafe.Pointer(&seccompNotifAddFD{id: id, srcFD: uint32(fd), newFDFlags: flags})))
	if errno != 0 {
		return os.NewSyscallError("ioctl", errno)
	}
	return notifReturn(listener, id, int64(copied))
}

func notifReturn(listener int, id uint64, value int64) error {
	return ioctlPointer(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&seccompNotifResp{id: id, val: value}))
}

func notifFail(listener int, id uint64, errno unix.Errno) error {
	return ioctlPointer(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&seccompNotifResp{
		id: id, error: -int32(errno),
	}))
}

func ioctlPointer(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
		return os.NewSyscallError("ioctl", errno)
	}
	return nil
}
