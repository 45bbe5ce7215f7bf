package process

import (
	"encoding/binary"
	"errors"
	"os"
	"strconv"

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
	seal  handleSeal
	// askers are the processes that asked, by thread.
	askers map[uint32]asker
}

// Of linux/exportfs.h and linux/fcntl.h: the largest handle, and what stands
// before its bytes, their number and its type.
const (
	maxHandleBytes = 128
	handleHeader   = 8
)

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
	var err error
	if n.data.nr == unix.SYS_NAME_TO_HANDLE_AT {
		err = s.answerName(n)
	} else {
		err = s.answerOpen(n)
	}
	if err != nil {
		_ = notifFail(s.listener, n.id, errnoOf(err))
	}
}

// answerName answers name_to_handle_at(fd, "", handle, mount_id, AT_EMPTY_PATH),
// and no other: what a path means is the program's to know.
func (s *handleServer) answerName(n *seccompNotif) error {
	fd, path, handle, mountID, flags := n.data.args[0], n.data.args[1], n.data.args[2], n.data.args[3], n.data.args[4]
	a, err := s.asker(n)
	if err != nil {
		return err
	}
	first := make([]byte, 1)
	if err := a.read(path, first); err != nil {
		return err
	}
	if first[0] != 0 || uint32(flags) != unix.AT_EMPTY_PATH {
		return unix.EOPNOTSUPP
	}
	copied, err := a.copyFD(fd)
	if err != nil {
		return err
	}
	defer unix.Close(copied)
	sealed, mount, err := s.issue(copied)
	if err != nil {
		return err
	}
	if !notifValid(s.listener, n.id) {
		return unix.ESRCH
	}
	err = a.writeHandle(handle, sealed)
	if err == nil || errors.Is(err, unix.EOVERFLOW) {
		err = errors.Join(err, a.write(mountID, binary.NativeEndian.AppendUint32(nil, uint32(mount))))
	}
	if err != nil {
		return err
	}
	return notifReturn(s.listener, n.id, 0)
}

// issue makes the handle of an open file, and the id of its mount, or says that
// it has none: virtiofsd keeps a descriptor then.
func (s *handleServer) issue(fd int) (sealed unix.FileHandle, mount int, err error) {
	if !s.mayUse(fd) {
		return sealed, 0, unix.EOPNOTSUPP
	}
	handle, mount, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return sealed, 0, err
	}
	p, err := placeOf(fd)
	if err != nil {
		return sealed, 0, err
	}
	sealed, err = s.seal.seal(handle, p)
	return sealed, mount, err
}

// mayUse says whether a handle of the file would be any use. This guards nothing.
func (s *handleServer) mayUse(fd int) bool {
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

// answerOpen answers open_by_handle_at(mount, handle, flags).
func (s *handleServer) answerOpen(n *seccompNotif) error {
	mount, handle, flags := n.data.args[0], n.data.args[1], n.data.args[2]
	a, err := s.asker(n)
	if err != nil {
		return err
	}
	sealed, err := a.readHandle(handle)
	if err != nil {
		return err
	}
	copied, err := a.copyFD(mount)
	if err != nil {
		return err
	}
	defer unix.Close(copied)
	fd, err := s.open(copied, sealed, int(int32(flags)))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = notifGiveFD(s.listener, n.id, fd, uint32(flags)&unix.O_CLOEXEC)
	if errors.Is(err, unix.ENOENT) {
		return nil // nobody waits
	}
	return err
}

// open opens the file of a handle that issue has made for a file of that mount.
func (s *handleServer) open(mount int, sealed unix.FileHandle, flags int) (int, error) {
	where, err := placeOf(mount)
	if err != nil {
		return -1, err
	}
	handle, where, err := s.seal.unseal(sealed, where)
	if err != nil {
		return -1, err
	}
	path, err := openPath(mount, handle, flags)
	if err != nil {
		return -1, err
	}
	defer unix.Close(path)
	if found, err := placeOf(path); err != nil || found != where {
		return -1, unix.ESTALE
	}
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

// readHandle reads a struct file_handle (open_by_handle_at(2)): length, type,
// bytes.
func (a asker) readHandle(address uint64) (unix.FileHandle, error) {
	header := make([]byte, handleHeader)
	if err := a.read(address, header); err != nil {
		return unix.FileHandle{}, err
	}
	size := binary.NativeEndian.Uint32(header)
	if size == 0 || size > maxHandleBytes {
		return unix.FileHandle{}, unix.EINVAL
	}
	body := make([]byte, size)
	if err := a.read(address+handleHeader, body); err != nil {
		return unix.FileHandle{}, err
	}
	return unix.NewFileHandle(int32(binary.NativeEndian.Uint32(header[4:])), body), nil
}

// writeHandle writes one where there is room for it; else it writes how much it
// takes, like the kernel.
func (a asker) writeHandle(address uint64, h unix.FileHandle) error {
	room := make([]byte, 4)
	if err := a.read(address, room); err != nil {
		return err
	}
	size := binary.NativeEndian.Uint32(room)
	if size > maxHandleBytes {
		return unix.EINVAL
	}
	out := binary.NativeEndian.AppendUint32(nil, uint32(h.Size()))
	out = binary.NativeEndian.AppendUint32(out, uint32(h.Type()))
	if int(size) < h.Size() {
		return errors.Join(unix.EOVERFLOW, a.write(address, out))
	}
	return a.write(address, append(out, h.Bytes()...))
}
