package verify

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"bield/internal/probe"
)

const catHost = "host"

// limits of how much is tried of what a host may have a lot of.
const (
	maxAddresses = 16
	maxPorts     = 256
	maxSiblings  = 250
	maxTargets   = 32
)

// host tries every port that the host listens on, and ports that it has opened
// only for this.
func (b *builder) host() {
	b.Addresses = b.Addresses[:min(len(b.Addresses), maxAddresses)]
	ports, at := b.listening()
	for _, p := range ports[:min(len(ports), maxPorts)] {
		b.hostPort(p, at[p])
	}
	b.canaries()
}

// listening says at which addresses each port of the host can be tried; those
// on loopback alone are canaries' business.
func (b *builder) listening() ([]Port, map[Port][]netip.Addr) {
	at := map[Port][]netip.Addr{}
	for _, l := range b.Listeners {
		switch {
		case l.Address.IsUnspecified():
			at[l.Port] = b.Addresses
		case slices.Contains(b.Addresses, l.Address) && !slices.Contains(at[l.Port], l.Address):
			at[l.Port] = append(slices.Clone(at[l.Port]), l.Address)
		}
	}
	var ports []Port
	for p := range at {
		ports = append(ports, p)
	}
	slices.SortFunc(ports, func(a, b Port) int { return cmp.Or(strings.Compare(a.Proto, b.Proto), int(a.Port)-int(b.Port)) })
	return ports, at
}

func (b *builder) hostPort(p Port, at []netip.Addr) {
	var ids []int
	tried := map[int]netip.AddrPort{}
	for _, address := range at {
		id := b.order(probe.Order{Verb: probe.Verb(p.Proto), Address: address.String(), Port: p.Port, Data: b.greeting(p.Proto)})
		ids, tried[id] = append(ids, id), netip.AddrPortFrom(address, p.Port)
	}
	isOpen := b.TrustBridge || slices.Contains(b.HostPorts, p) || slices.Contains(b.OwnPorts, p)
	b.add(attempt{category: catHost, name: fmt.Sprintf("%s/%d, on which it listens", p.Proto, p.Port), expected: openIf(isOpen), judge: func(e Evidence) verdict {
		return b.judgeReached(e, ids, tried, isOpen)
	}})
}

// greeting makes what waits for a first word answer, and a service that gets a
// datagram.
func (b *builder) greeting(proto string) []byte {
	if proto == "tcp" {
		return nil
	}
	return b.payload(0)
}

// judgeReached holds connections against whose sockets are at their other ends.
func (b *builder) judgeReached(e Evidence, ids []int, tried map[int]netip.AddrPort, isOpen bool) verdict {
	var reached, not []string
	for _, id := range ids {
		r := e.Results[id]
		if how, got := b.reached(e, r, tried[id]); got {
			reached = append(reached, tried[id].Addr().String()+how)
		} else if how = cmp.Or(how, says(r)); !slices.Contains(not, how) {
			not = append(not, how)
		}
	}
	if len(reached) > 0 {
		return verdict{got: "open at " + strings.Join(reached, ", "), hole: !isOpen}
	}
	return verdict{got: joined(not, "not tried"), unchecked: len(not) == 0 || slices.Contains(not, "not tried")}
}

// reached says whether a connection got through, and how: bield's own proxy,
// which refuses what is not allowed, is no way out.
func (b *builder) reached(e Evidence, r Result, tried netip.AddrPort) (how string, got bool) {
	if !r.Connected {
		return "", r.Outcome == probe.Answered
	}
	for _, c := range e.Connections {
		switch {
		case c.GuestPort != r.LocalPort:
		case slices.Contains(b.OwnPorts, Port{"tcp", c.Local.Port()}):
			return "bield's proxy took it", false
		case c.Local.Port() != tried.Port():
			return fmt.Sprintf(", by the host's port %d", c.Local.Port()), true
		default:
			return "", true
		}
	}
	return "", true
}

// canaries are sockets that only a hole leads to.
func (b *builder) canaries() {
	var byTCP, byUDP []int
	for _, a := range b.Addresses {
		byTCP = append(byTCP, b.order(probe.Order{Verb: probe.TCP, Address: a.String(), Port: b.CanaryTCP}))
		b.plan.Orders[len(b.plan.Orders)-1].Data = b.Mark(uint32(b.next))
		byUDP = append(byUDP, b.marked(probe.Order{Verb: probe.UDP, Address: a.String(), Port: b.CanaryUDP}, same))
	}
	b.heard("a TCP port that was just opened, at each of its addresses", byTCP)
	b.heard("a UDP port that was just opened, at each of its addresses", byUDP)
	for _, protocol := range b.CanaryIP {
		id := b.marked(probe.Order{Verb: probe.RawIP, Address: b.Gateway.String(), Number: uint64(protocol)}, same)
		b.heard(fmt.Sprintf("a raw socket of IP protocol %d", protocol), []int{id})
	}
	loopback := netip.MustParseAddr("127.0.0.1")
	b.heardFrame("what listens on 127.0.0.1, by a frame to the bridge", func(mark []byte) []byte {
		return ether(b.BridgeMAC, b.MAC, etherIPv4, ipv4(b.IP, loopback, protoUDP, udp(b.IP, loopback, anyPort, b.CanaryUDP, mark)))
	})
	b.heardFrame("past the bridge, in a link-local control frame", func(mark []byte) []byte {
		lldp := net.HardwareAddr{0x01, 0x80, 0xc2, 0, 0, 0x0e}
		return ether(lldp, b.MAC, etherIPv4, ipv4(b.IP, b.Gateway, protoUDP, udp(b.IP, b.Gateway, anyPort, b.CanaryUDP, mark)))
	})
}

// anyPort is one that nothing cares for.
const anyPort = 40001

func same(mark []byte) []byte { return mark }

func (b *builder) heardFrame(name string, frame func(mark []byte) []byte) {
	b.heard(name, []int{b.marked(probe.Order{Verb: probe.Frame, Address: b.MAC.String()}, frame)})
}

func (b *builder) heard(name string, ids []int) {
	b.add(attempt{category: catHost, name: name, expected: openIf(b.TrustBridge), packets: true, judge: func(e Evidence) verdict {
		if by := where(e.Heard, ids); by != "" {
			return verdict{got: "it arrived: " + by, hole: !b.TrustBridge}
		}
		var not []string
		for _, id := range ids {
			if how := says(e.Results[id]); !slices.Contains(not, how) {
				not = append(not, how)
			}
		}
		return verdict{got: "nothing arrived (" + joined(not, "not tried") + ")", unchecked: slices.Contains(not, "not tried")}
	}})
}
