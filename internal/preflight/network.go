package preflight

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func (h Host) forwarding() Result {
	const file = "net/ipv4/ip_forward"
	switch value := h.sysctl(file); {
	case value == "":
		return fail("the kernel does not say whether it forwards IPv4 (net.ipv4.ip_forward)", "mount /proc")
	case value != "0":
		return ok("on")
	case h.root() && errors.Is(unix.Access(h.path("proc/sys/"+file), unix.W_OK), unix.EROFS):
		return fail("off, and /proc/sys is read-only here, so that bieldd can't switch it on",
			"outside of this container: sudo sysctl -w net.ipv4.ip_forward=1, or --sysctl net.ipv4.ip_forward=1")
	}
	return ok("off; bieldd switches it on while a VM runs and puts it back")
}

// brNetfilter only says how it is: bield's own rules hold either way.
func (h Host) brNetfilter() Result {
	switch h.sysctl("net/bridge/bridge-nf-call-iptables") {
	case "":
		return ok("not loaded")
	case "0":
		return ok("loaded, and bridged packets are not shown to IP rules (bridge-nf-call-iptables is 0)")
	}
	return ok("bridged packets are shown to IP rules too (bridge-nf-call-iptables is 1); bield's rules expect that")
}

// view is what the kernel has of links, addresses and routes.
type view struct {
	links  []netlink.Link
	addrs  []netlink.Addr
	routes []netlink.Route
}

// dumpTries bounds how often a dump is repeated that changes kept interrupting.
const dumpTries = 10

func dump[T any](ctx context.Context, list func() ([]T, error)) ([]T, error) {
	for range dumpTries - 1 {
		all, err := list()
		if ctx.Err() != nil || !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return list()
}

func look(ctx context.Context) (view, error) {
	var v view
	var err [3]error
	v.links, err[0] = dump(ctx, netlink.LinkList)
	v.addrs, err[1] = dump(ctx, func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
	v.routes, err[2] = dump(ctx, func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err := errors.Join(err[:]...); err != nil {
		return v, fmt.Errorf("list the interfaces: %w", err)
	}
	return v, nil
}

// link is nil where there is none of that name.
func (v view) link(name string) netlink.Link {
	i := slices.IndexFunc(v.links, func(l netlink.Link) bool { return l.Attrs().Name == name })
	if i < 0 {
		return nil
	}
	return v.links[i]
}

func (v view) name(index int) string {
	for _, l := range v.links {
		if l.Attrs().Index == index {
			return l.Attrs().Name
		}
	}
	return ""
}

// outward is the interface of the default route of the main table, or "".
func (v view) outward() string {
	best := -1
	for i, r := range v.routes {
		to, ok := prefixOf(r.Dst)
		isDefault := r.Dst == nil || ok && to.Bits() == 0
		if isDefault && r.Table == unix.RT_TABLE_MAIN && (best < 0 || r.Priority < v.routes[best].Priority) {
			best = i
		}
	}
	if best < 0 {
		return ""
	}
	return v.name(linkOf(v.routes[best]))
}

func linkOf(r netlink.Route) int {
	if r.LinkIndex == 0 && len(r.MultiPath) > 0 {
		return r.MultiPath[0].LinkIndex
	}
	return r.LinkIndex
}

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

func (h Host) bridge(ctx context.Context) Result {
	v, err := look(ctx)
	if err != nil {
		return warn(err.Error())
	}
	name, gateway := h.Config.Host.Bridge, netip.PrefixFrom(h.Config.Host.Gateway(), h.Config.Host.Subnet.Bits())
	link := v.link(name)
	another := "set another `bridge` in the configuration"
	switch {
	case link == nil:
		return ok("the name %s is free", name)
	case link.Type() != "bridge":
		return fail(fmt.Sprintf("there is an interface %s, and it is no bridge but a %s", name, link.Type()), "sudo ip link del "+name+", if nothing needs it", "or "+another)
	case link.Attrs().Alias == h.Run.Owner():
		return ok("%s is there and bield's own", name)
	case !slices.Contains(v.addresses(link), gateway):
		return fail(fmt.Sprintf("%s exists, is not bield's and has not the address %s (it has %v)", name, gateway, v.addresses(link)),
			fmt.Sprintf("sudo ip addr add %s dev %s", gateway, name), "or set `subnet` to fit, or "+another)
	case link.Attrs().Flags&net.FlagUp == 0:
		return fail(name+" exists, is not bield's and is down", "sudo ip link set dev "+name+" up")
	}
	return ok("%s is there, not bield's, and fits: it is used as it is", name)
}

func (v view) addresses(link netlink.Link) []netip.Prefix {
	var all []netip.Prefix
	for _, a := range v.addrs {
		if p, ok := prefixOf(a.IPNet); ok && a.LinkIndex == link.Attrs().Index {
			all = append(all, p)
		}
	}
	return all
}

func (h Host) subnet(ctx context.Context) Result {
	v, err := look(ctx)
	if err != nil {
		return warn(err.Error())
	}
	subnet, bridge := h.Config.Host.Subnet, h.Config.Host.Bridge
	taken, inMain := v.overlap(subnet, bridge)
	if taken == "" {
		return ok("%s is free", subnet)
	}
	advice := "set another `subnet` in the configuration, and the VMs' `ip` to fit"
	if free, found := v.free(subnet, bridge); found {
		advice = fmt.Sprintf("set `subnet: %s` in the configuration, and the VMs' `ip` to fit", shortSubnet(free))
	}
	text := fmt.Sprintf("%s overlaps with %s", subnet, taken)
	if !inMain {
		return warn(text+": guests may be out of reach", advice)
	}
	return fail(text, advice)
}

// widestSubnet is the length of the widest private range: a route wider than
// that stands for the internet.
const widestSubnet = 8

// overlap names the first address or route of another interface than the
// bridge that shares addresses with the subnet. inMain is false for a route of
// another table than the main one, which bieldd does not refuse.
func (v view) overlap(subnet netip.Prefix, bridge string) (what string, inMain bool) {
	for _, a := range v.addrs {
		on := v.name(a.LinkIndex)
		for _, n := range []*net.IPNet{a.IPNet, a.Peer} {
			if p, ok := prefixOf(n); ok && p.Overlaps(subnet) && on != bridge {
				return fmt.Sprintf("the address %s of interface %s", p, on), true
			}
		}
	}
	for _, r := range v.routes {
		p, ok := prefixOf(r.Dst)
		on := v.name(linkOf(r))
		if !ok || p.Bits() < widestSubnet || !p.Overlaps(subnet) || on == bridge || r.Table == unix.RT_TABLE_LOCAL {
			continue
		}
		what := fmt.Sprintf("the route %s of interface %s", p, on)
		if r.Table != unix.RT_TABLE_MAIN {
			return fmt.Sprintf("%s (routing table %d)", what, r.Table), false
		}
		return what, true
	}
	return "", false
}

// free finds a subnet of the same size that nothing uses: the wanted one's
// neighbours first.
func (v view) free(wanted netip.Prefix, bridge string) (netip.Prefix, bool) {
	size := uint64(1) << (32 - wanted.Bits())
	// The private ranges (RFC 1918), with a bound on how many are tried.
	const tries = 1024
	ranges := []string{wanted.String(), "192.168.0.0/16", "10.0.0.0/8", "172.16.0.0/12"}
	for _, within := range ranges[1:] {
		if netip.MustParsePrefix(within).Contains(wanted.Addr()) {
			ranges[0] = within
		}
	}
	for i, within := range ranges {
		all := netip.MustParsePrefix(within)
		start, end := number(all.Addr()), number(all.Addr())+uint64(1)<<(32-all.Bits())
		if i == 0 {
			start = number(wanted.Addr()) + size
		}
		for range tries {
			if wanted.Bits() <= all.Bits() || start+size > end {
				break
			}
			candidate := netip.PrefixFrom(address(start), wanted.Bits())
			if what, _ := v.overlap(candidate, bridge); what == "" {
				return candidate, true
			}
			start += size
		}
	}
	return netip.Prefix{}, false
}

func number(a netip.Addr) uint64 {
	b := a.As4()
	return uint64(binary.BigEndian.Uint32(b[:]))
}

func address(n uint64) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(n))))
}

// shortSubnet is a subnet as people write it in the configuration.
func shortSubnet(p netip.Prefix) string {
	if p.Bits() == 24 {
		return strings.TrimSuffix(p.Addr().String(), ".0")
	}
	return p.String()
}

func (h Host) externalInterface(ctx context.Context) Result {
	v, err := look(ctx)
	if err != nil {
		return warn(err.Error())
	}
	name, outward := h.Config.Host.ExternalInterface, v.outward()
	link := v.link(name)
	switch {
	case name == "" && outward == "":
		return warn("the host has no default route: guests reach no more than it does", "connect the host to a network")
	case name == "":
		return ok("any; the host's default route is by %s", outward)
	case link == nil:
		return fail(fmt.Sprintf("there is no interface %s", name), "set `externalInterface` to one of: "+strings.Join(h.outwardNames(v), ", "), "or leave the option out: then it is any")
	case link.Attrs().Flags&net.FlagUp == 0:
		return warn(name+" is down: guests have no way out", "sudo ip link set dev "+name+" up")
	case outward != name && outward != "":
		return warn(fmt.Sprintf("%s is there, but the host's default route is by %s: guests reach only what is routed by %s", name, outward, name),
			"set `externalInterface: "+outward+"`, or leave the option out")
	}
	return ok("%s is there", name)
}

// outwardNames are the interfaces that could lead outward.
func (h Host) outwardNames(v view) []string {
	var all []string
	for _, l := range v.links {
		a := l.Attrs()
		if a.Name != h.Config.Host.Bridge && a.Flags&net.FlagLoopback == 0 && a.Alias != h.Run.Owner() {
			all = append(all, a.Name)
		}
	}
	return all
}
