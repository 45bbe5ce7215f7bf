package network

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// maxQueues is MAX_TAP_QUEUES of the kernel's drivers/net/tun.c.
const maxQueues = 256

// Tap is the host's end of one VM's network card.
type Tap struct {
	Name   string
	Bridge string
	// Owner marks the tap as made by us: see the package comment.
	Owner string
	// UID and GID may open the tap without CAP_NET_ADMIN.
	UID, GID uint32
	// MAC is the guest's address, "02:00:00:01:b8:4b". With it the bridge knows
	// by a fixed entry where the guest is and learns nothing from the tap, so
	// that a guest can neither take another's place nor be sent what is meant
	// for others. Empty leaves the bridge to learn.
	MAC string
	// Peers lets the tap's frames through to other taps with Peers: it is then
	// not isolated.
	Peers bool
	// Queues above 1 make a multi-queue tap; 0 counts as 1.
	Queues int
}

func (t Tap) check() error {
	if err := errors.Join(checkName(t.Name), checkName(t.Bridge), checkOwner(t.Owner)); err != nil {
		return err
	}
	if t.Queues < 0 || t.Queues > maxQueues {
		return fmt.Errorf("tap %s: %d queues: Linux allows 1 to %d", t.Name, t.Queues, maxQueues)
	}
	if _, err := net.ParseMAC(t.MAC); t.MAC != "" && err != nil {
		return fmt.Errorf("tap %s: %w", t.Name, err)
	}
	return nil
}

// EnsureTap makes the tap new: persistent, up, on its bridge, with virtio-net
// headers. A leftover that carries our mark is deleted first, so no running
// VMM may hold it. Any other link of that name is left alone and is an error,
// as is a missing bridge.
func EnsureTap(ctx context.Context, t Tap) error {
	if err := errors.Join(ctx.Err(), t.check()); err != nil {
		return err
	}
	bridge, err := find(t.Bridge)
	if err != nil {
		return err
	}
	if bridge == nil || bridge.Type() != "bridge" {
		return fmt.Errorf("create tap %s: there is no bridge %s", t.Name, t.Bridge)
	}
	if err := t.removeLeftover(); err != nil {
		return err
	}
	if err := t.make(bridge); err != nil {
		return fmt.Errorf("create tap %s: %w", t.Name, advise(err))
	}
	return nil
}

func (t Tap) isolate(link netlink.Link) error {
	if err := netlink.LinkSetIsolated(link, !t.Peers); err != nil {
		return fmt.Errorf("isolate it from other taps: %w", err)
	}
	return nil
}

// ErrNoTap says that bield has no tap of that name.
var ErrNoTap = errors.New("bield has no tap of that name")

// IsolateTap isolates a tap that is there from others, or with Peers lets it
// through to them. The error wraps ErrNoTap if it is not there.
func IsolateTap(ctx context.Context, t Tap) error {
	if err := errors.Join(ctx.Err(), t.check()); err != nil {
		return err
	}
	link, err := find(t.Name)
	switch {
	case err != nil:
		return err
	case link == nil || !t.owns(link):
		return fmt.Errorf("isolate tap %s: %w", t.Name, ErrNoTap)
	}
	err = t.isolate(link)
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP) { // it is just being removed, and no port of the bridge any more
		return fmt.Errorf("%w: %w", ErrNoTap, err)
	}
	return err
}

// RemoveTap deletes the tap if it carries our mark. A missing tap, or one that
// is not ours, is no error.
func RemoveTap(ctx context.Context, t Tap) error {
	if err := errors.Join(ctx.Err(), checkName(t.Name), checkOwner(t.Owner)); err != nil {
		return err
	}
	link, err := find(t.Name)
	if err != nil || link == nil || !t.owns(link) {
		return err
	}
	return removeLink(link)
}

func (t Tap) removeLeftover() error {
	link, err := find(t.Name)
	switch {
	case err != nil || link == nil:
		return err
	case !t.owns(link):
		return fmt.Errorf("create tap %s: an interface of that name exists and is not bield's (a %s with alias %q): remove it with `ip link delete dev %s`, or give the VM another name", t.Name, link.Type(), link.Attrs().Alias, t.Name)
	}
	return removeLink(link)
}

func (t Tap) owns(link netlink.Link) bool {
	return isTap(link) && link.Attrs().Alias == t.Owner
}

func isTap(link netlink.Link) bool {
	tun, ok := link.(*netlink.Tuntap)
	return ok && tun.Mode == unix.IFF_TAP
}

// make lets the tap outlive its descriptor last of all: until then closing it,
// or the end of this process, takes the tap away whole.
func (t Tap) make(bridge netlink.Link) error {
	flags := uint16(unix.IFF_TUN_EXCL)
	if t.Queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	fd, err := attachTap(t.Name, flags)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := t.setAccess(fd); err != nil {
		return err
	}
	link, err := netlink.LinkByName(t.Name)
	if err != nil {
		return fmt.Errorf("look it up: %w", err)
	}
	if err := t.connect(link, bridge); err != nil {
		return err
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("keep it (TUNSETPERSIST): %w", err)
	}
	return nil
}

func (t Tap) setAccess(fd int) error {
	if err := unix.IoctlSetInt(fd, unix.TUNSETOWNER, int(t.UID)); err != nil {
		return fmt.Errorf("give it to user %d (TUNSETOWNER): %w", t.UID, err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETGROUP, int(t.GID)); err != nil {
		return fmt.Errorf("give it to group %d (TUNSETGROUP): %w", t.GID, err)
	}
	return nil
}

func (t Tap) connect(link, bridge netlink.Link) error {
	if err := netlink.LinkSetAlias(link, t.Owner); err != nil {
		return fmt.Errorf("mark it: %w", err)
	}
	if err := disableIPv6(t.Name); err != nil {
		return fmt.Errorf("switch off IPv6: %w", err)
	}
	if err := netlink.LinkSetMaster(link, bridge); err != nil {
		return fmt.Errorf("put it on bridge %s: %w", t.Bridge, err)
	}
	if err := t.isolate(link); err != nil {
		return err
	}
	if t.MAC != "" {
		if err := t.pin(link); err != nil {
			return fmt.Errorf("pin it to %s: %w", t.MAC, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring it up: %w", err)
	}
	return nil
}

// pin replaces what the bridge would learn from the tap by one static entry of
// its forwarding table.
func (t Tap) pin(link netlink.Link) error {
	mac, err := net.ParseMAC(t.MAC)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetLearning(link, false); err != nil {
		return err
	}
	if err := netlink.LinkSetFlood(link, false); err != nil {
		return err
	}
	return netlink.NeighSet(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP, Flags: netlink.NTF_MASTER, HardwareAddr: mac,
	})
}
