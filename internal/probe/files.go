package probe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

func readStart(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := make([]byte, MaxData)
	n, err := io.ReadFull(f, data)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = nil
	}
	return data[:n], err
}

// maxStart is how much of each file glob shows.
const maxStart = 64

func glob(pattern string) ([]byte, error) {
	paths, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	var list []byte
	for _, path := range paths {
		data, err := readStart(path)
		if err != nil {
			data = nil
		}
		data = bytes.Join(bytes.Fields(data[:min(len(data), maxStart)]), []byte{' '})
		list = fmt.Appendf(list, "%s\t%s\n", path, data)
	}
	return list, nil
}

// create sets the mode once more: a new file loses bits of it to the umask.
func create(o Order) error {
	f, err := os.OpenFile(o.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(o.Data)
	return errors.Join(err, unix.Fchmod(int(f.Fd()), o.Mode), f.Close())
}

// sector is what every block device takes at once.
const sector = 512

func rewrite(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_SYNC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	data := make([]byte, sector)
	if _, err := f.ReadAt(data, 0); err != nil {
		return err
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		return err
	}
	return f.Sync()
}

// The handles that FUSE makes: a node's number, its upper half first, and a
// generation; then the same of the folder above (fs/fuse/inode.c, fuse_encode_fh).
const (
	handleOfNode   = 0x81
	handleOfParent = 0x82
)

// openHandles opens nodes that the guest was never given a name for, and looks
// below each for o.To. It returns what it read there.
func openHandles(o Order) ([]byte, error) {
	mount, err := unix.Open(o.Path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(mount)
	last := error(unix.ESTALE)
	for node := range o.Number {
		for _, kind := range []int32{handleOfNode, handleOfParent} {
			data, err := readBelow(mount, kind, node, o.To)
			if err == nil {
				return data, nil
			}
			if !errors.Is(err, fs.ErrNotExist) {
				last = err
			}
		}
	}
	return nil, last
}

func readBelow(mount int, kind int32, node uint64, path string) ([]byte, error) {
	handle := make([]byte, 12, 24)
	binary.NativeEndian.PutUint32(handle, uint32(node>>32))
	binary.NativeEndian.PutUint32(handle[4:], uint32(node))
	if kind == handleOfParent {
		handle = append(handle, handle...)
	}
	dir, err := unix.OpenByHandleAt(mount, unix.NewFileHandle(kind, handle), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	// Both by the name and by climbing out of what is open.
	for _, name := range []string{path, "../../../../../../../../../../../../" + path} {
		fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err == nil {
			defer unix.Close(fd)
			return readStart(fmt.Sprintf("/proc/self/fd/%d", fd))
		}
	}
	return nil, fs.ErrNotExist
}
