package vsock

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// region is a part of the guest's memory.
type region struct {
	guest, user, size uint64
	bytes             []byte // from its start on
}

type memory []region

// mapRegion maps a region of fd, which it takes.
func mapRegion(fd int, guest, size, user, offset uint64) (region, error) {
	defer unix.Close(fd)
	// Offsets of a mapping are multiples of the page size: map from the file's start.
	b, err := unix.Mmap(fd, 0, int(offset+size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return region{}, fmt.Errorf("map guest memory: %w", os.NewSyscallError("mmap", err))
	}
	return region{guest: guest, user: user, size: size, bytes: b[offset:]}, nil
}

var errAddress = errors.New("an address outside of the guest's memory")

// at is the memory at an address of the guest's.
func (m memory) at(address, size uint64) ([]byte, error) {
	for _, r := range m {
		if offset := address - r.guest; address >= r.guest && offset+size <= r.size {
			return r.bytes[offset : offset+size : offset+size], nil
		}
	}
	return nil, errAddress
}

// atUser is the memory at an address of QEMU's, which rings are given by.
func (m memory) atUser(address, size uint64) ([]byte, error) {
	for _, r := range m {
		if address >= r.user && address-r.user+size <= r.size {
			return m.at(r.guest+address-r.user, size)
		}
	}
	return nil, errAddress
}
