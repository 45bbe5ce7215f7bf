package verify

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
)

// Types of frames (IEEE 802 numbers) and protocols (RFC 790).
const (
	etherIPv4  = 0x0800
	etherARP   = 0x0806
	etherVLAN  = 0x8100
	etherQinQ  = 0x88a8
	etherIPv6  = 0x86dd
	etherLocal = 0x88b5 // for experiments

	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
)

func broadcast() net.HardwareAddr { return net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} }

func ether(to, from net.HardwareAddr, kind uint16, payload []byte) []byte {
	return slices.Concat(to, from, binary.BigEndian.AppendUint16(nil, kind), payload)
}

// tagged is the rest of a frame behind a VLAN tag.
func tagged(vlan, kind uint16, payload []byte) []byte {
	return slices.Concat(binary.BigEndian.AppendUint16(nil, vlan), binary.BigEndian.AppendUint16(nil, kind), payload)
}

// ipv4 is a packet without options (RFC 791).
func ipv4(from, to netip.Addr, protocol byte, payload []byte) []byte {
	h := make([]byte, 20)
	h[0], h[8], h[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(payload)))
	copy(h[12:], from.AsSlice())
	copy(h[16:], to.AsSlice())
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return append(h, payload...)
}

// ipv6 has a hop limit of 255, as neighbour discovery wants it (RFC 4861).
func ipv6(from, to netip.Addr, next byte, payload []byte) []byte {
	h := make([]byte, 8, 40)
	h[0], h[6], h[7] = 0x60, next, 255
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	return slices.Concat(h, from.AsSlice(), to.AsSlice(), payload)
}

func udp(from, to netip.Addr, source, port uint16, data []byte) []byte {
	h := make([]byte, 8)
	binary.BigEndian.PutUint16(h, source)
	binary.BigEndian.PutUint16(h[2:], port)
	binary.BigEndian.PutUint16(h[4:], uint16(len(h)+len(data)))
	h = append(h, data...)
	binary.BigEndian.PutUint16(h[6:], checksum(pseudo(from, to, protoUDP, len(h)), h))
	return h
}

// syn asks for a connection, with data that only a watcher reads (RFC 9293,
// section 3.1).
func syn(from, to netip.Addr, source, port uint16, data []byte) []byte {
	h := make([]byte, 20)
	binary.BigEndian.PutUint16(h, source)
	binary.BigEndian.PutUint16(h[2:], port)
	binary.BigEndian.PutUint32(h[4:], 1000)
	h[12], h[13] = 5<<4, 2
	binary.BigEndian.PutUint16(h[14:], 1024)
	h = append(h, data...)
	binary.BigEndian.PutUint16(h[16:], checksum(pseudo(from, to, protoTCP, len(h)), h))
	return h
}

// echo is an ICMP echo request (RFC 792).
func echo(data []byte) []byte {
	h := append([]byte{8, 0, 0, 0, 0, 1, 0, 1}, data...)
	binary.BigEndian.PutUint16(h[2:], checksum(h))
	return h
}

func icmpv6(from, to netip.Addr, body []byte) []byte {
	body = slices.Clone(body)
	binary.BigEndian.PutUint16(body[2:], checksum(pseudo(from, to, protoICMPv6, len(body)), body))
	return body
}

// pseudo is the header that checksums count in (RFC 9293, section 3.1; RFC 8200,
// section 8.1).
func pseudo(from, to netip.Addr, protocol byte, length int) []byte {
	h := slices.Concat(from.AsSlice(), to.AsSlice())
	if from.Is4() {
		h = append(h, 0, protocol)
		return binary.BigEndian.AppendUint16(h, uint16(length))
	}
	h = binary.BigEndian.AppendUint32(h, uint32(length))
	return append(h, 0, 0, 0, protocol)
}

// checksum is that of the internet (RFC 1071); all parts but the last have an
// even length.
func checksum(parts ...[]byte) uint16 {
	var sum uint32
	for _, p := range parts {
		for ; len(p) > 1; p = p[2:] {
			sum += uint32(binary.BigEndian.Uint16(p))
		}
		if len(p) == 1 {
			sum += uint32(p[0]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// arp is a message for Ethernet and IPv4 (RFC 826): 1 asks, 2 answers.
func arp(op uint16, senderMAC net.HardwareAddr, sender netip.Addr, targetMAC net.HardwareAddr, target netip.Addr) []byte {
	h := []byte{0, 1, 8, 0, 6, 4}
	h = binary.BigEndian.AppendUint16(h, op)
	return slices.Concat(h, senderMAC, sender.AsSlice(), targetMAC, target.AsSlice())
}
