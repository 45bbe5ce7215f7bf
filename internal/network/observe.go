package network

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
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
	isolated, err := isolatedPorts()
	if err != nil {
		return Links{}, err
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
			status := observeTap(tun, names)
			status.Isolated = isolated[l.Attrs().Index]
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

func observeTap(tun *netlink.Tuntap, names map[int]string) TapStatus {
	a := tun.Attrs()
	return TapStatus{
		Name:       a.Name,
		Bridge:     names[a.MasterIndex],
		Up:         a.Flags&net.FlagUp != 0,
		Carrier:    a.RawFlags&unix.IFF_LOWER_UP != 0,
		MultiQueue: tun.Flags&netlink.TUNTAP_MULTI_QUEUE != 0,
		UID:        tun.Owner,
		GID:        tun.Group,
	}
}

// isolatedPorts tells which ports of bridges are isolated, by their index: one
// dump, where netlink.LinkGetProtinfo takes one for each port.
func isolatedPorts() (map[int]bool, error) {
	messages, err := dump(func() ([][]byte, error) {
		request := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		request.AddData(nl.NewIfInfomsg(unix.AF_BRIDGE))
		return request.Execute(unix.NETLINK_ROUTE, 0)
	})
	if err != nil {
		return nil, fmt.Errorf("list the ports of bridges: %w", advise(err))
	}
	isolated := map[int]bool{}
	for _, m := range messages {
		port := nl.DeserializeIfInfomsg(m)
		attrs, err := nl.ParseRouteAttr(m[port.Len():])
		if err != nil {
			return nil, fmt.Errorf("read the ports of bridges: %w", err)
		}
		if portIsIsolated(attrs) {
			isolated[int(port.Index)] = true
		}
	}
	return isolated, nil
}

// portIsIsolated looks for IFLA_BRPORT_ISOLATED in IFLA_PROTINFO
// (linux/if_link.h).
func portIsIsolated(attrs []syscall.NetlinkRouteAttr) bool {
	for _, attr := range attrs {
		if attr.Attr.Type != unix.IFLA_PROTINFO|unix.NLA_F_NESTED {
			continue
		}
		options, err := nl.ParseRouteAttr(attr.Value)
		if err != nil {
			return false
		}
		for _, option := range options {
			if option.Attr.Type == nl.IFLA_BRPORT_ISOLATED && len(option.Value) > 0 {
				return option.Value[0] == 1
			}
		}
	}
	return false
}
