package process

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"

	"golang.org/x/sys/unix"
)

// A sealed handle is one of the kernel's with two things behind it: the file's
// time of birth and a MAC that only this process can make. Both are of fixed
// size, and equal files have equal handles: virtiofsd compares them.
const (
	birthBytes = 8
	macBytes   = 16
	sealBytes  = birthBytes + macBytes
)

// handleSeal makes sealed handles and knows them again.
type handleSeal struct{ mac hash.Hash }

func newHandleSeal() handleSeal {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails (crypto/rand)
	return handleSeal{hmac.New(sha256.New, key)}
}

// place is what a handle means beside itself.
type place struct {
	// mount is the mount's id: a handle is a number of one file system, and on
	// another the program may have chosen it. Before Linux 6.8 ids are used
	// again; kind is the type of the file system there, else 0.
	mount uint64
	kind  int64
	// birth is the file's, in nanoseconds, or 0. Not all handles tell a file
	// from a later one of the same number: ext4 takes generation 0 as any.
	birth uint64
}

// placeOf looks at an open file.
func placeOf(fd int) (place, error) {
	var st unix.Statx_t
	const want = unix.STATX_BTIME | unix.STATX_MNT_ID | unix.STATX_MNT_ID_UNIQUE
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, want, &st); err != nil {
		return place{}, fmt.Errorf("statx: %w", err)
	}
	if st.Mask&(unix.STATX_MNT_ID|unix.STATX_MNT_ID_UNIQUE) == 0 {
		return place{}, fmt.Errorf("statx: %w", unix.EOPNOTSUPP) // before 5.8
	}
	p := place{mount: st.Mnt_id}
	if st.Mask&unix.STATX_BTIME != 0 {
		p.birth = uint64(st.Btime.Sec)*1e9 + uint64(st.Btime.Nsec)
	}
	if st.Mask&unix.STATX_MNT_ID_UNIQUE == 0 {
		var fs unix.Statfs_t
		if err := unix.Fstatfs(fd, &fs); err != nil {
			return place{}, fmt.Errorf("statfs: %w", err)
		}
		p.kind = fs.Type
	}
	return p, nil
}

// seal makes a sealed handle, if there is room for it.
func (s handleSeal) seal(h unix.FileHandle, p place) (unix.FileHandle, error) {
	if h.Size()+sealBytes > maxHandleBytes {
		return h, unix.EOPNOTSUPP
	}
	body := binary.NativeEndian.AppendUint64(h.Bytes(), p.birth)
	return unix.NewFileHandle(h.Type(), append(body, s.sum(h.Type(), body, p)...)), nil
}

// unseal returns the kernel's handle and completes the place of the mount that
// it is to be opened on, if it was sealed for a file there.
func (s handleSeal) unseal(sealed unix.FileHandle, p place) (unix.FileHandle, place, error) {
	end := sealed.Size() - macBytes
	if end <= birthBytes {
		return sealed, p, unix.ESTALE
	}
	body, mac := sealed.Bytes()[:end], sealed.Bytes()[end:]
	if !hmac.Equal(mac, s.sum(sealed.Type(), body, p)) {
		return sealed, p, unix.ESTALE
	}
	p.birth = binary.NativeEndian.Uint64(body[end-birthBytes:])
	return unix.NewFileHandle(sealed.Type(), body[:end-birthBytes]), p, nil
}

// sum covers all but p.birth, which stands in body.
func (s handleSeal) sum(kind int32, body []byte, p place) []byte {
	s.mac.Reset()
	head := binary.NativeEndian.AppendUint64(make([]byte, 0, 64), p.mount)
	head = binary.NativeEndian.AppendUint64(head, uint64(p.kind))
	head = binary.NativeEndian.AppendUint32(head, uint32(kind))
	s.mac.Write(head)
	s.mac.Write(body)
	return s.mac.Sum(head[:0])[:macBytes]
}
