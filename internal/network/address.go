package network

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// widestSubnet is the length of the widest private range (10.0.0.0/8). A route
// wider than that stands for the internet: VPNs split the default route into
// such halves, and no subnet of ours takes anything away from them.
const widestSubnet = 8

func ipv4Addresses(link netlink.Link) ([]netlink.Addr, error) {
	addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", advise(err))
	}
	return addrs, nil
}

// checkOverlap refuses a subnet of which an interface has a part already, by an
// address or by a route of the main table.
func (b Bridge) checkOverlap() error {
	links, err := listLinks()
	if err != nil {
		return err
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	addrs, err := ipv4Addresses(nil)
	if err != nil {
		return err
	}
	routes, err := dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("list routes: %w", advise(err))
	}
	if what := overlap(b.Address.Masked(), names, addrs, routes); what != "" {
		return fmt.Errorf("bridge %s: subnet %s overlaps with %s: set another `subnet` in the configuration", b.Name, b.Address.Masked(), what)
	}
	return nil
}

// overlap describes the first address or route that shares addresses with the
// subnet, or returns "". names maps interface indexes to names.
func overlap(subnet netip.Prefix, names map[int]string, addrs []netlink.Addr, routes []netlink.Route) string {
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok && p.Overlaps(subnet) {
			return fmt.Sprintf("address %s of interface %s", p, names[a.LinkIndex])
		}
		if p, ok := prefixOf(a.Peer); ok && p.Overlaps(subnet) {
			return fmt.Sprintf("peer address %s of interface %s", p, names[a.LinkIndex])
		}
	}
	for _, r := range routes {
		if p, ok := prefixOf(r.Dst); ok && p.Bits() >= widestSubnet && p.Overlaps(subnet) {
			return fmt.Sprintf("route %s %s", p, routeTarget(r, names))
		}
	}
	return ""
}

func routeTarget(r netlink.Route, names map[int]string) string {
	index := r.LinkIndex
	if index == 0 && len(r.MultiPath) > 0 {
		index = r.MultiPath[0].LinkIndex
	}
	if name, ok := names[index]; ok {
		return "of interface " + name
	}
	return "(no interface)"
}

// prefixOf keeps the host part of an address; false for a default route's nil
// and for what is not IPv4.
func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits != 32 || !addr.Unmap().Is4() {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr.Unmap(), ones), true
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
