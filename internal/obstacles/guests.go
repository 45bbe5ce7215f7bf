package obstacles

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"bield/internal/spec"
)

// Guests is who is to get through, and where.
type Guests struct {
	Bridge  string
	Subnet  netip.Prefix
	Gateway netip.Addr
	// External is the way out; "" is any, and rules that name an interface then
	// may match.
	External string
	// Far stands for all that guests reach; an address of IPv4, or zero.
	Far netip.Addr
	// Redirected says that guests' DNS and connections are answered on the
	// gateway, on a port of the kernel's choice.
	Redirected bool
	// HostPorts are those of the host that guests reach.
	HostPorts []spec.HostPort
}

// GuestsOf are those of a host, whose way out is external.
func GuestsOf(h spec.Host, external string) Guests {
	g := Guests{Bridge: h.Bridge, Subnet: h.Subnet, Gateway: h.Gateway(), External: external, HostPorts: h.HostPorts}
	// A name server stands for all that guests reach.
	if len(h.Nameservers) > 0 && h.Nameservers[0].Is4() {
		g.Far = h.Nameservers[0]
	}
	for _, vm := range h.VMs {
		g.Redirected = g.Redirected || vm.Egress.Effective() != spec.EgressOpen
	}
	return g
}

// Outward is the interface of the default route, or "".
func Outward(ctx context.Context) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return "", fmt.Errorf("list the routes: %w", err)
	}
	best := -1
	for i, r := range routes {
		isDefault := r.Dst == nil
		if r.Dst != nil {
			ones, _ := r.Dst.Mask.Size()
			isDefault = ones == 0
		}
		if isDefault && (best < 0 || r.Priority < routes[best].Priority) {
			best = i
		}
	}
	if best < 0 {
		return "", nil
	}
	index := routes[best].LinkIndex
	if index == 0 && len(routes[best].MultiPath) > 0 {
		index = routes[best].MultiPath[0].LinkIndex
	}
	link, err := net.InterfaceByIndex(index)
	if err != nil {
		return "", fmt.Errorf("find the interface of the default route: %w", err)
	}
	return link.Name, nil
}

// flow is packets that guests can't do without, and the hooks that see them.
type flow struct {
	what   string
	packet packet
	hooks  []string
	// bridged are the hooks of the bridge family that see them, as frames of a
	// tap or to one.
	bridged []string
}

// sees says whether a table's hook sees the flow, and the packet as it sees it.
func (f flow) sees(family, hook string) (packet, bool) {
	if family != "bridge" {
		return f.packet.at(hook), slices.Contains(f.hooks, hook)
	}
	p := f.packet
	p.in, p.out = end{}, end{}
	return p, slices.Contains(f.bridged, hook)
}

// anyPort stands for a port that the kernel gave: one of ip_local_port_range's
// default, which no rule names by chance.
const anyPort = 44_071

// flows are to the outside and back, between the host and guests, and to what
// of the host guests may reach. Whatever else a firewall drops is its owner's wish.
func (g Guests) flows() []flow {
	bridge, outside := endOf(g.Bridge), end{}
	if g.External != "" {
		outside = endOf(g.External)
	}
	gateway := netip.PrefixFrom(g.Gateway, 32)
	var far netip.Prefix
	if g.Far.IsValid() {
		far = netip.PrefixFrom(g.Far, 32)
	}
	fromGuest, toGuest := []string{"prerouting", "input"}, []string{"output", "postrouting"}
	all := []flow{
		{"what guests send to the outside", packet{in: bridge, out: outside, source: g.Subnet, destination: far, state: stateNew}, []string{"prerouting", "forward", "postrouting"}, fromGuest},
		{"the answers that guests get from the outside", packet{in: outside, out: bridge, source: far, destination: g.Subnet, state: stateEstablished}, []string{"forward", "postrouting"}, toGuest},
		{"the host's connections to guests", packet{out: bridge, source: gateway, destination: g.Subnet, state: stateNew}, toGuest, toGuest},
		{"the answers of guests to the host", packet{in: bridge, source: g.Subnet, destination: gateway, state: stateEstablished, toHost: true}, fromGuest, fromGuest},
	}
	toHost := packet{in: bridge, source: g.Subnet, destination: gateway, state: stateNew, toHost: true}
	for _, protocol := range []string{"udp", "tcp"} {
		if p := toHost; g.Redirected {
			p.protocol, p.port, p.redirected = number(protocol), anyPort, true
			all = append(all, flow{"what bield answers guests by " + protocol, p, []string{"input"}, nil})
		}
	}
	for _, port := range g.HostPorts {
		p := toHost
		p.protocol, p.port = number(port.Protocol), port.Port
		all = append(all, flow{"guests' way to the host's port " + port.String(), p, fromGuest, nil})
	}
	return all
}

func number(protocol string) byte {
	if protocol == "udp" {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

// noIndex is that of an interface which is not there yet: none has it.
const noIndex = 1<<31 - 1

func endOf(name string) end {
	e := end{known: true, name: name, index: noIndex}
	if link, err := net.InterfaceByName(name); err == nil {
		e.index = uint32(link.Index)
	}
	return e
}

// at is the packet as a hook sees it: before routing it has no way out, behind
// it no way in.
func (p packet) at(hook string) packet {
	none := end{known: true}
	switch hook {
	case "prerouting", "input":
		p.out = none
	case "output", "postrouting":
		p.in = none
	}
	return p
}
