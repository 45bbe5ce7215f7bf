package process

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// handleServer answers open_by_handle_at and name_to_handle_at for one program.
// It runs on the one thread that may raise CAP_DAC_READ_SEARCH.
type handleServer struct {
	listener int
	// uid is what the program runs as. Whoever owns a file may make it
	// readable, so those are always opened for reading.
	uid uint32
	// idMap, if set, is whose files are opened, for reading only.
	idMap *IDMap
	// pidfds of the processes that asked, by thread.
	pidfds map[uint32]int
}

// maxPidfds bounds the cache; virtiofsd asks from one thread or a small pool.
const maxPidfds = 64

// fileHandle limits of linux/exportfs.h.
const maxHandleBytes = 128

// openFlags are those of open(2) that are passed on when a handle is opened for
// use. O_CLOEXEC is the caller's descriptor's.
const openFlags = unix.O_ACCMODE | unix.O_APPEND | unix.O_TRUNC | unix.O_NONBLOCK | unix.O_SYNC |
	unix.O_DIRECT | unix.O_LARGEFILE | unix.O_DIRECTORY | unix.O_NOATIME

// serve answers until the listener fails.
func (s *handleServer) serve() error {
	// The asking thread waits: let it and this one share a CPU (kernel 6.6).
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(s.listener), unix.SECCOMP_IOCTL_NOTIF_SET_FLAGS,
		unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
	for {
		n, err := notifRecv(s.listener)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOENT):
			continue // the asking thread was interrupted or is gone
		case err != nil:
			return err
		}
		s.answer(n)
	}
}

// answer never fails: if the answer can't be given, nobody waits for it.
func (s *handleServer) answer(n *seccompNotif) {
	if n.data.nr == unix.SYS_NAME_TO_HANDLE_AT {
		if s.mayUse(n) {
			_ = notifContinue(s.listener, n.id)
		} else {
			_ = notifFail(s.listener, n.id, unix.EOPNOTSUPP)
		}
		return
	}
	fd, err := s.open(n)
	if err == nil {
		defer unix.Close(fd)
		err = notifGiveFD(s.listener, n.id, fd, uint32(n.data.args[2])&unix.O_CLOEXEC)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return
		}
	}
	_ = notifFail(s.listener, n.id, errnoOf(err))
}

// mayUse says whether a handle of the file would be any use. virtiofsd keeps a
// descriptor for a file that has none. This guards nothing.
func (s *handleServer) mayUse(n *seccompNotif) bool {
	const flagsArgument = 4
	if n.data.args[flagsArgument]&unix.AT_EMPTY_PATH == 0 {
		return true
	}
	fd, err := s.copyFD(n.pid, int(int32(n.data.args[0])))
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || !opensSafely(st) {
		return false
	}
	if s.readsAlways(st) {
		return true
	}
	opened, err := s.openForUse(fd, unix.O_RDONLY)
	if err != nil {
		return false
	}
	_ = unix.Close(opened)
	return true
}

// readsAlways says that reading this file needs no right of its mode.
func (s *handleServer) readsAlways(st unix.Stat_t) bool {
	return s.idMap != nil && s.idMap.owns(st) || s.idMap == nil && st.Uid == s.uid
}

// opensSafely says that the file is plain or a folder: opening anything else can
// block or have an effect.
func opensSafely(st unix.Stat_t) bool {
	kind := st.Mode & unix.S_IFMT
	return kind == unix.S_IFREG || kind == unix.S_IFDIR
}

func (s *handleServer) open(n *seccompNotif) (int, error) {
	handle, err := readHandle(int(n.pid), uintptr(n.data.args[1]))
	if err != nil {
		return -1, err
	}
	mount, err := s.copyFD(n.pid, int(int32(n.data.args[0])))
	if err != nil {
		return -1, err
	}
	defer unix.Close(mount)
	if !notifValid(s.listener, n.id) {
		return -1, unix.ESRCH
	}
	flags := int(int32(n.data.args[2]))
	path, err := openPath(mount, handle, flags)
	if err != nil {
		return -1, err
	}
	defer unix.Close(path)
	if flags&unix.O_PATH != 0 {
		// An O_PATH descriptor can't be handed over that way: one that
		// reads stands in for it.
		flags = unix.O_RDONLY | unix.O_NONBLOCK
	}
	return s.openForUse(path, flags)
}

// openPath turns a handle into a descriptor that allows nothing yet.
func openPath(mount int, handle unix.FileHandle, flags int) (fd int, err error) {
	flags = unix.O_PATH | unix.O_CLOEXEC | flags&(unix.O_NOFOLLOW|unix.O_DIRECTORY)
	capErr := withCapability(func() { fd, err = unix.OpenByHandleAt(mount, handle, flags) })
	return fd, errors.Join(capErr, err)
}

// openForUse opens what path refers to, if it is a plain file or a folder.
func (s *handleServer) openForUse(path, flags int) (fd int, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(path, &st); err != nil {
		return -1, err
	}
	reads := flags&(unix.O_ACCMODE|unix.O_TRUNC) == unix.O_RDONLY
	switch {
	case !opensSafely(st):
		return -1, unix.ELOOP
	case s.idMap != nil && !s.idMap.owns(st):
		return -1, unix.EPERM
	case s.idMap != nil && !reads:
		return -1, unix.EROFS
	}
	open := func() {
		fd, err = unix.Open("/proc/self/fd/"+strconv.Itoa(path), flags&openFlags|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	}
	if open(); err == nil || !reads || !s.readsAlways(st) {
		return fd, err
	}
	capErr := withCapability(open)
	return fd, errors.Join(capErr, err)
}

// owns says whether the file belongs to the map.
func (m IDMap) owns(st unix.Stat_t) bool {
	return st.Uid-m.Base < m.Count && st.Gid-m.Base < m.Count
}

// withCapability does something with CAP_DAC_READ_SEARCH in effect.
func withCapability(act func()) error {
	const set = 1 << unix.CAP_DAC_READ_SEARCH
	if err := setCapabilities(rawThread, set, set); err != nil {
		return err
	}
	act()
	if err := setCapabilities(rawThread, set, 0); err != nil {
		os.Exit(1) // never go on with a capability that can't be put away
	}
	return nil
}

func errnoOf(err error) unix.Errno {
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		return errno
	}
	return unix.EIO
}

// readHandle reads a struct file_handle (open_by_handle_at(2)) of another
// process: length, type, bytes.
func readHandle(tid int, address uintptr) (unix.FileHandle, error) {
	const header = 8
	buffer := make([]byte, header+maxHandleBytes)
	n, err := readMemory(tid, address, buffer[:header])
	if err != nil || n != header {
		return unix.FileHandle{}, unix.EFAULT
	}
	size := binary.NativeEndian.Uint32(buffer)
	if size == 0 || size > maxHandleBytes {
		return unix.FileHandle{}, unix.EINVAL
	}
	body := buffer[header : header+size]
	if n, err := readMemory(tid, address+header, body); err != nil || n != len(body) {
		return unix.FileHandle{}, unix.EFAULT
	}
	kind := int32(binary.NativeEndian.Uint32(buffer[4:]))
	return unix.NewFileHandle(kind, body), nil
}

func readMemory(tid int, address uintptr, to []byte) (int, error) {
	local := []unix.Iovec{{Base: unsafe.SliceData(to)}}
	local[0].SetLen(len(to))
	return unix.ProcessVMReadv(tid, local, []unix.RemoteIovec{{Base: address, Len: len(to)}}, 0)
}

// copyFD copies a descriptor of the asking process.
func (s *handleServer) copyFD(tid uint32, fd int) (int, error) {
	if pidfd, ok := s.pidfds[tid]; ok {
		if copied, err := unix.PidfdGetfd(pidfd, fd, 0); err != unix.ESRCH {
			return copied, err
		}
		unix.Close(pidfd)
		delete(s.pidfds, tid)
	}
	pidfd, err := openThreadGroup(tid)
	if err != nil {
		return -1, err
	}
	s.remember(tid, pidfd)
	return unix.PidfdGetfd(pidfd, fd, 0)
}

func (s *handleServer) remember(tid uint32, pidfd int) {
	if len(s.pidfds) >= maxPidfds {
		for _, old := range s.pidfds {
			unix.Close(old)
		}
		clear(s.pidfds)
	}
	s.pidfds[tid] = pidfd
}

// openThreadGroup opens a pidfd of the process that a thread belongs to.
func openThreadGroup(tid uint32) (int, error) {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(int(tid)) + "/status")
	if err != nil {
		return -1, unix.ESRCH
	}
	for line := range bytes.Lines(status) {
		if value, ok := bytes.CutPrefix(line, []byte("Tgid:")); ok {
			pid, err := strconv.Atoi(string(bytes.TrimSpace(value)))
			if err != nil {
				return -1, unix.ESRCH
			}
			return unix.PidfdOpen(pid, 0)
		}
	}
	return -1, unix.ESRCH
}
