package verify

import (
	"net"
	"net/netip"
	"slices"

	"bield/internal/probe"
)

const (
	catSpoof   = "spoofing"
	catControl = "control"
)

// spoofs sends what is not the guest's to send: none of it may leave its tap.
func (b *builder) spoofs() {
	strange := net.HardwareAddr{0x02, 0xbe, 0xef, 0, 0, 0x01}
	otherMAC, otherIP := strange, b.free()
	if len(b.Siblings) > 0 {
		otherMAC, otherIP = b.Siblings[0].MAC, b.Siblings[0].IP
	}
	b.spoofed("a frame with another MAC", b.datagram(strange, b.IP))
	b.spoofed("a frame with a sibling's MAC", b.datagram(otherMAC, b.IP))
	b.spoofed("a packet with a sibling's address", b.datagram(b.MAC, otherIP))
	b.spoofed("a packet with the gateway's address", b.datagram(b.MAC, b.Gateway))
	b.spoofed("a packet with an address of the internet", b.datagram(b.MAC, netip.MustParseAddr("198.51.100.9")))
	b.spoofed("all of a sibling's: MAC and address", b.datagram(otherMAC, otherIP))
	b.arps(otherIP, strange)
	b.tags()
	b.ipv6s()
	b.services()
}

// free is an address of the subnet that nobody has.
func (b *builder) free() netip.Addr {
	a := b.Gateway.Next()
	for a == b.IP || slices.ContainsFunc(b.Siblings, func(s Sibling) bool { return s.IP == a }) {
		a = a.Next()
	}
	return a
}

func (b *builder) datagram(from net.HardwareAddr, source netip.Addr) func([]byte) []byte {
	return func(m []byte) []byte {
		return ether(b.BridgeMAC, from, etherIPv4, ipv4(source, b.Gateway, protoUDP, udp(source, b.Gateway, anyPort, anyPort, m)))
	}
}

func (b *builder) arps(other netip.Addr, strange net.HardwareAddr) {
	nobody := make(net.HardwareAddr, 6)
	b.spoofed("ARP: the gateway is here", func(m []byte) []byte {
		return append(ether(broadcast(), b.MAC, etherARP, arp(2, b.MAC, b.Gateway, broadcast(), b.Gateway)), m...)
	})
	b.spoofed("ARP: a sibling is here", func(m []byte) []byte {
		return append(ether(broadcast(), b.MAC, etherARP, arp(1, b.MAC, other, nobody, b.Gateway)), m...)
	})
	b.spoofed("ARP: this address has another MAC", func(m []byte) []byte {
		return append(ether(b.BridgeMAC, b.MAC, etherARP, arp(2, strange, b.IP, b.BridgeMAC, b.Gateway)), m...)
	})
}

func (b *builder) tags() {
	packet := func(m []byte) []byte {
		return ipv4(b.IP, b.Gateway, protoUDP, udp(b.IP, b.Gateway, anyPort, anyPort, m))
	}
	b.spoofed("VLAN 1", func(m []byte) []byte {
		return ether(b.BridgeMAC, b.MAC, etherVLAN, tagged(1, etherIPv4, packet(m)))
	})
	b.spoofed("VLAN 0, a priority alone", func(m []byte) []byte {
		return ether(b.BridgeMAC, b.MAC, etherVLAN, tagged(0, etherIPv4, packet(m)))
	})
	b.spoofed("a VLAN in a VLAN", func(m []byte) []byte {
		return ether(b.BridgeMAC, b.MAC, etherQinQ, tagged(1, etherVLAN, tagged(1, etherIPv4, packet(m))))
	})
	b.spoofed("a protocol of its own", func(m []byte) []byte { return ether(broadcast(), b.MAC, etherLocal, m) })
	b.spoofed("spanning tree", func(m []byte) []byte {
		return ether(net.HardwareAddr{0x01, 0x80, 0xc2, 0, 0, 0}, b.MAC, uint16(len(m)+3), append([]byte{0x42, 0x42, 3}, m...))
	})
}

func (b *builder) ipv6s() {
	local, all := netip.MustParseAddr("fe80::bad"), netip.MustParseAddr("ff02::1")
	toAll := net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
	send := func(name string, next byte, body func(m []byte) []byte) {
		b.spoofed(name, func(m []byte) []byte { return ether(toAll, b.MAC, etherIPv6, ipv6(local, all, next, body(m))) })
	}
	send("IPv6: a router is here", protoICMPv6, func(m []byte) []byte {
		return icmpv6(local, all, append([]byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}, m...))
	})
	send("IPv6: a neighbour is here", protoICMPv6, func(m []byte) []byte {
		return icmpv6(local, all, slices.Concat([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, local.AsSlice(), m))
	})
	send("IPv6: a datagram to all", protoUDP, func(m []byte) []byte { return udp(local, all, anyPort, b.CanaryUDP, m) })
	send("DHCPv6: an offer", protoUDP, func(m []byte) []byte { return udp(local, all, 547, 546, append([]byte{2, 0, 0, 1}, m...)) })
}

func (b *builder) services() {
	all := netip.MustParseAddr("255.255.255.255")
	offer := make([]byte, 240)
	offer[0], offer[1], offer[2] = 2, 1, 6
	b.spoofed("DHCP: an offer", func(m []byte) []byte {
		return ether(broadcast(), b.MAC, etherIPv4, ipv4(b.IP, all, protoUDP, udp(b.IP, all, 67, 68, append(slices.Clone(offer), m...))))
	})
}

// spoofed sends one frame that the host must see nowhere.
func (b *builder) spoofed(name string, frame func(mark []byte) []byte) {
	ids := []int{b.marked(probe.Order{Verb: probe.Frame, Address: b.MAC.String()}, frame)}
	b.add(attempt{category: catSpoof, name: name, expected: "dropped", packets: true, judge: func(e Evidence) verdict {
		if by := where(e.Seen, ids, b.Tap); by != "" {
			return verdict{got: "it arrived on " + by, hole: true}
		}
		if by := where(e.Heard, ids); by != "" {
			return verdict{got: "it arrived: " + by, hole: true}
		}
		if v, not := notSent(e, ids); not {
			return v
		}
		return verdict{got: "dropped"}
	}})
}

// control sends what is allowed, last of all: that the host sees it shows that it
// would have seen the rest.
func (b *builder) control() {
	id := b.marked(probe.Order{Verb: probe.Frame, Address: b.MAC.String()}, b.datagram(b.MAC, b.IP))
	b.plan.Control = id
	b.add(attempt{category: catControl, name: "the host sees what this guest may send", expected: "seen", judge: func(e Evidence) verdict {
		if where(e.Seen, []int{id}, b.Tap) == "" {
			return verdict{got: "not seen (" + says(e.Results[id]) + ")", unchecked: true}
		}
		return verdict{got: "seen"}
	}})
}
