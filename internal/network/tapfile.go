package network

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const tunDevice = "/dev/net/tun"

// OpenTap opens an existing tap, once a queue (0 counts as 1), for a VMM that
// may run in another network namespace. Packets carry a virtio-net header and
// no packet information.
//
// The files are non-blocking and stay so when handed over with exec.Cmd's
// ExtraFiles; they are not in Go's poller, so Read and Write of this process
// would fail with EAGAIN. The caller closes them.
func OpenTap(name string, queues int) ([]*os.File, error) {
	queues = max(queues, 1)
	flags, err := tapFlags(name, queues)
	if err != nil {
		return nil, err
	}
	files := make([]*os.File, 0, queues)
	for range queues {
		f, err := openQueue(name, flags)
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("open tap %s: %w", name, err)
		}
		files = append(files, f)
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// tapFlags looks the tap up first, for TUNSETIFF makes the taps it does not find.
func tapFlags(name string, queues int) (uint16, error) {
	if err := checkName(name); err != nil {
		return 0, err
	}
	link, err := find(name)
	if err != nil {
		return 0, err
	}
	if link == nil || !isTap(link) {
		return 0, fmt.Errorf("open tap %s: there is no such tap", name)
	}
	multi := link.(*netlink.Tuntap).Flags&netlink.TUNTAP_MULTI_QUEUE != 0
	switch {
	case queues > 1 && !multi:
		return 0, fmt.Errorf("open tap %s: it was made for one queue, not %d", name, queues)
	case queues > maxQueues:
		return 0, fmt.Errorf("open tap %s: %d queues: Linux allows 1 to %d", name, queues, maxQueues)
	case multi:
		return unix.IFF_MULTI_QUEUE, nil
	}
	return 0, nil
}

func openQueue(name string, flags uint16) (*os.File, error) {
	fd, err := attachTap(name, flags)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("%w: another process has it open, perhaps an earlier VMM that still runs", err)
	}
	if err != nil {
		return nil, advise(err)
	}
	if err := checkPersistent(fd); err != nil {
		unix.Close(fd)
		return nil, err
	}
	// Wrapped while it blocks, so that Go neither polls it nor makes it block
	// when it is passed on; the flag belongs to the open file and goes with it.
	f := os.NewFile(uintptr(fd), tunDevice)
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("make it non-blocking: %w", err)
	}
	return f, nil
}

// checkPersistent notices a tap that vanished after it was looked up, so that
// the one just attached to is a new one on no bridge.
func checkPersistent(fd int) error {
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr); err != nil {
		return fmt.Errorf("read its flags (TUNGETIFF): %w", err)
	}
	if ifr.Uint16()&unix.IFF_PERSIST == 0 {
		return errors.New("it was removed meanwhile")
	}
	return nil
}

// attachTap opens one queue of a tap, in blocking mode: the descriptor cannot
// be polled before TUNSETIFF.
func attachTap(name string, flags uint16) (int, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return -1, err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | flags)
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return -1, fmt.Errorf("open %s: %w: load the module with `modprobe tun`", tunDevice, err)
	case err != nil:
		return -1, fmt.Errorf("open %s: %w", tunDevice, err)
	}
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("attach (TUNSETIFF): %w", err)
	}
	return fd, nil
}
