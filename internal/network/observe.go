package network

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Links is what exists of one owner's, in the order of the kernel's list.
type Links struct {
	Bridges []BridgeStatus
	Taps    []TapStatus
}

// BridgeStatus is a bridge as the kernel has it.
type BridgeStatus struct {
	Name string
	Up   bool
	// Addresses are its IPv4 addresses.
	Addresses []netip.Prefix
}

// TapStatus is a tap as the kernel has it.
type TapStatus struct {
	Name string
	// Bridge is the bridge it is on, or "".
	Bridge string
	Up     bool
	// Carrier tells that a process holds the tap open.
	Carrier    bool
	Isolated   bool
	MultiQueue bool
	UID, GID   uint32
}

// Observe lists the bridges and taps that carry the owner's mark.
func Observe(owner string) (Links, error) {
	if err := checkOwner(owner); err != nil {
		return Links{}, err
	}
	all, err := listLinks()
	if err != nil {
		return Links{}, err
	}
	names := make(map[int]string, len(all))
	for _, l := range all {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	var found Links
	for _, l := range all {
		if (Bridge{Name: l.Attrs().Name, Owner: owner}).owns(l) {
			status, err := observeBridge(l)
			if err != nil && vanished(l) {
				continue
			}
			if err != nil {
				return Links{}, err
			}
			found.Bridges = append(found.Bridges, status)
		}
		if tun, ok := l.(*netlink.Tuntap); ok && (Tap{Owner: owner}).owns(l) {
			status, err := observeTap(tun, names)
			if err != nil && vanished(l) {
				continue
			}
			if err != nil {
				return Links{}, err
			}
			found.Taps = append(found.Taps, status)
		}
	}
	return found, nil
}

// vanished says that a link was deleted since it was listed.
func vanished(link netlink.Link) bool {
	now, err := find(link.Attrs().Name)
	return err == nil && (now == nil || now.Attrs().Index != link.Attrs().Index)
}

func observeBridge(link netlink.Link) (BridgeStatus, error) {
	a := link.Attrs()
	status := BridgeStatus{Name: a.Name, Up: a.Flags&net.FlagUp != 0}
	addrs, err := ipv4Addresses(link)
	if err != nil {
		return BridgeStatus{}, fmt.Errorf("bridge %s: %w", a.Name, err)
	}
	for _, addr := range addrs {
		if p, ok := prefixOf(addr.IPNet); ok {
			status.Addresses = append(status.Addresses, p)
		}
	}
	return status, nil
}

func observeTap(tun *netlink.Tuntap, names map[int]string) (TapStatus, error) {
	a := tun.Attrs()
	status := TapStatus{
		Name:       a.Name,
		Bridge:     names[a.MasterIndex],
		Up:         a.Flags&net.FlagUp != 0,
		Carrier:    a.RawFlags&unix.IFF_LOWER_UP != 0,
		MultiQueue: tun.Flags&netlink.TUNTAP_MULTI_QUEUE != 0,
		UID:        tun.Owner,
		GID:        tun.Group,
	}
	if a.MasterIndex == 0 {
		return status, nil
	}
	port, err := dump(func() ([]netlink.Protinfo, error) {
		port, err := netlink.LinkGetProtinfo(tun)
		return []netlink.Protinfo{port}, err
	})
	if err != nil {
		return TapStatus{}, fmt.Errorf("tap %s: read its bridge port: %w", a.Name, advise(err))
	}
	status.Isolated = port[0].Isolated
	return status, nil
}
