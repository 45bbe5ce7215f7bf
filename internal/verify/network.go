package verify

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/net/dns/dnsmessage"

	"bield/internal/probe"
)

const (
	catSiblings = "siblings"
	catNetwork  = "network"
	catDNS      = "dns"
)

const (
	sshPort   = 22
	httpsPort = 443
)

// siblings tries each other VM: as a neighbour, by way of the host, and by frames
// to it.
func (b *builder) siblings() {
	for _, s := range b.Siblings[:min(len(b.Siblings), maxSiblings)] {
		tcp := b.order(probe.Order{Verb: probe.TCP, Address: s.IP.String(), Port: sshPort})
		ids := []int{
			b.marked(probe.Order{Verb: probe.UDP, Address: s.IP.String(), Port: anyPort}, same),
			b.marked(probe.Order{Verb: probe.RawIP, Address: s.IP.String(), Number: protoICMP}, echo),
		}
		b.sibling(s, "TCP 22, UDP and ICMP to "+s.Name, ids, tcp)
		b.sibling(s, "by way of the host to "+s.Name, b.frames(b.BridgeMAC, s.IP), 0)
		b.sibling(s, "by frames to "+s.Name, b.frames(s.MAC, s.IP), 0)
	}
}

// frames sends a datagram, a SYN and an echo in frames to one hardware address.
func (b *builder) frames(mac []byte, to netip.Addr) []int {
	frame := probe.Order{Verb: probe.Frame, Address: b.MAC.String()}
	return []int{
		b.marked(frame, func(m []byte) []byte {
			return ether(mac, b.MAC, etherIPv4, ipv4(b.IP, to, protoUDP, udp(b.IP, to, anyPort, anyPort, m)))
		}),
		b.marked(frame, func(m []byte) []byte {
			return ether(mac, b.MAC, etherIPv4, ipv4(b.IP, to, protoTCP, syn(b.IP, to, anyPort, sshPort, m)))
		}),
		b.marked(frame, func(m []byte) []byte { return ether(mac, b.MAC, etherIPv4, ipv4(b.IP, to, protoICMP, echo(m))) }),
	}
}

func (b *builder) sibling(s Sibling, name string, ids []int, tcp int) {
	b.add(attempt{category: catSiblings, name: name, expected: openIf(b.GuestToGuest), packets: true, judge: func(e Evidence) verdict {
		for _, id := range ids {
			if slices.Contains(e.Seen[uint32(id)], s.Tap) {
				return verdict{got: "it arrived at its tap", hole: !b.GuestToGuest}
			}
		}
		if how, got := b.reached(e, e.Results[tcp], netip.AddrPortFrom(s.IP, sshPort)); tcp != 0 && got {
			return verdict{got: "connected" + how, hole: !b.GuestToGuest}
		}
		if tcp != 0 {
			return verdict{got: "nothing arrived (" + says(e.Results[tcp]) + ")"}
		}
		if v, not := notSent(e, ids); not {
			return v
		}
		return verdict{got: "nothing arrived"}
	}})
}

// target is an address that stands for a network.
type target struct {
	name    string
	address netip.Addr
}

// targets are what a guest should not reach, but by an entry of `allow`.
func (b *builder) targets() []target {
	var list []target
	for _, t := range []struct{ name, address string }{
		{"cloud metadata", "169.254.169.254"},
		{"private 10.0.0.0/8", "10.255.255.254"},
		{"private 172.16.0.0/12", "172.31.255.254"},
		{"private 192.168.0.0/16", "192.168.255.254"},
		{"link-local", "169.254.255.1"},
		{"carrier-grade NAT", "100.127.255.254"},
		{"multicast", "224.0.0.251"},
		{"multicast of an organization", "239.255.255.250"},
		{"benchmarks", "198.18.0.1"},
		{"reserved", "240.0.0.1"},
		{"broadcast", "255.255.255.255"},
	} {
		list = append(list, target{t.name, netip.MustParseAddr(t.address)})
	}
	for _, n := range b.Neighbours {
		if b.private(n) {
			list = append(list, target{"the host's neighbour", n})
		}
	}
	list = slices.DeleteFunc(list, func(t target) bool { return b.Subnet.Contains(t.address) || slices.Contains(b.Addresses, t.address) })
	return list[:min(len(list), maxTargets)]
}

// private says of an address that it is none of the internet's: those of the
// host's own networks can be.
func (b *builder) private(a netip.Addr) bool {
	return slices.ContainsFunc(b.NonPublic, func(p netip.Prefix) bool { return p.Contains(a) })
}

// allowed says that one of the ports that are tried is open by the VM's `allow`.
func (b *builder) allowed(to netip.Addr) bool {
	return slices.ContainsFunc(b.Allow, func(a Allowed) bool {
		return a.Prefix.Contains(to) && slices.Contains([]uint16{0, anyPort, sshPort, httpsPort}, a.Port)
	})
}

func (b *builder) ranges() {
	for _, t := range b.targets() {
		isOpen := b.Mode == ModeOpen || b.allowed(t.address)
		b.network(fmt.Sprintf("%s (%s)", t.name, t.address), t.address, isOpen)
	}
	if len(b.Nameservers) > 0 {
		isOpen := b.Mode == ModeOpen || b.Mode == ModePublic || b.allowed(b.Nameservers[0])
		b.network(fmt.Sprintf("the internet (%s)", b.Nameservers[0]), b.Nameservers[0], isOpen)
	}
}

// network tries an address beyond the host: what leaves by any interface but
// those of the VMs has got out.
func (b *builder) network(name string, to netip.Addr, isOpen bool) {
	ids := append(b.frames(b.BridgeMAC, to), b.marked(probe.Order{Verb: probe.UDP, Address: to.String(), Port: anyPort}, same))
	tcp := b.order(probe.Order{Verb: probe.TCP, Address: to.String(), Port: httpsPort})
	b.add(attempt{category: catNetwork, name: name, expected: openIf(isOpen), packets: true, judge: func(e Evidence) verdict {
		if by := where(e.Seen, ids, b.Tap, b.Bridge); by != "" {
			return verdict{got: "it left by " + by, hole: !isOpen}
		}
		how, got := b.reached(e, e.Results[tcp], netip.AddrPortFrom(to, httpsPort))
		if got {
			return verdict{got: "connected" + how, hole: !isOpen}
		}
		if v, not := notSent(e, ids[:1]); not {
			return v
		}
		if how == "" {
			how = says(e.Results[tcp])
		}
		return verdict{got: "nothing left (" + how + ")"}
	}})
}

// OwnName is what only bield's resolver knows: the gateway's address.
const OwnName = "bield.internal"

// dns asks whatever resolver a guest could for a name that only bield's knows.
func (b *builder) dns() {
	servers := slices.Clone(b.Nameservers[:min(len(b.Nameservers), 4)])
	servers = append(servers, b.Gateway)
	if len(b.Siblings) > 0 {
		servers = append(servers, b.Siblings[0].IP)
	}
	for _, server := range servers {
		b.ask(server)
	}
	for _, server := range b.Nameservers[:min(len(b.Nameservers), 4)] {
		b.pastResolver(server)
	}
}

func (b *builder) ask(server netip.Addr) {
	query, err := question(OwnName)
	if err != nil {
		return
	}
	id := b.order(probe.Order{Verb: probe.UDP, Address: server.String(), Port: 53, Data: query})
	isOpen := b.Mode == ModeOpen
	expected := "bield's answer, or none"
	if isOpen {
		expected = "any answer"
	}
	b.add(attempt{category: catDNS, name: "whose answer comes from " + server.String(), expected: expected, judge: func(e Evidence) verdict {
		r := e.Results[id]
		switch {
		case r.Outcome == "":
			return verdict{got: "not tried", unchecked: true}
		case r.Outcome != probe.Answered:
			return verdict{got: says(r)}
		case answers(r.Data, b.Gateway):
			return verdict{got: "bield's answer"}
		}
		return verdict{got: "another's answer", hole: !isOpen}
	}})
}

// pastResolver sends a query that carries a mark: it must not leave.
func (b *builder) pastResolver(server netip.Addr) {
	isOpen := b.Mode == ModeOpen
	frame := probe.Order{Verb: probe.Frame, Address: b.MAC.String()}
	ids := []int{
		b.marked(frame, func(m []byte) []byte {
			return ether(b.BridgeMAC, b.MAC, etherIPv4, ipv4(b.IP, server, protoUDP, udp(b.IP, server, anyPort+1, 53, m)))
		}),
		b.marked(frame, func(m []byte) []byte {
			return ether(b.BridgeMAC, b.MAC, etherIPv4, ipv4(b.IP, server, protoTCP, syn(b.IP, server, anyPort+1, 53, m)))
		}),
	}
	b.add(attempt{category: catDNS, name: "past bield's resolver to " + server.String(), expected: openIf(isOpen), packets: true, judge: func(e Evidence) verdict {
		if by := where(e.Seen, ids, b.Tap, b.Bridge); by != "" {
			return verdict{got: "it left by " + by, hole: !isOpen}
		}
		if v, not := notSent(e, ids); not {
			return v
		}
		return verdict{got: "nothing left"}
	}})
}

func question(name string) ([]byte, error) {
	full, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return nil, err
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 4711, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: full, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	return m.Pack()
}

// answers says whether a message gives that address.
func answers(message []byte, want netip.Addr) bool {
	var m dnsmessage.Message
	if m.Unpack(message) != nil || len(m.Answers) != 1 {
		return false
	}
	a, ok := m.Answers[0].Body.(*dnsmessage.AResource)
	return ok && netip.AddrFrom4(a.A) == want
}
