package firewall

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"bield/internal/spec"
)

// Registers: the four-byte ones (NFT_REG32_00 is 8 in linux/netfilter/nf_tables.h)
// overlay the sixteen-byte ones. A concatenation is read from reg on: a name
// takes 16 bytes, then a MAC address 8, then an IPv4 address 4; of addresses
// and ports alone each takes 4.
const (
	reg       = unix.NFT_REG_1
	regMAC    = unix.NFT_REG_2
	regIPv4   = unix.NFT_REG32_00 + 6
	regSecond = unix.NFT_REG32_00 + 1
	regThird  = unix.NFT_REG32_00 + 2
)

// Offsets and lengths, in bytes: of Ethernet (IEEE 802.3), IPv4 (RFC 791), UDP
// (RFC 768) and ARP for IPv4 over Ethernet (RFC 826).
const (
	etherDestination, etherSource, etherType = 0, 6, 12
	ipSource, ipDestination                  = 12, 16
	arpSenderMAC, arpSenderIP                = 8, 14
	portSource, portDestination              = 0, 2
	macBytes, ipBytes, portBytes, typeBytes  = 6, 4, 2, 2
)

// port number of a DHCP server (RFC 2131).
const dhcpServer = 67

// cond is a part of a rule: it goes on only if the packet matches.
type cond []expr.Any

// on makes a rule of conditions and a verdict.
func on(parts ...cond) rule {
	return rule{exprs: slices.Concat(parts...)}
}

// deny makes a rule that drops, and counts for `nft list` to show with why.
func deny(why string, parts ...cond) rule {
	r := on(parts...)
	r.exprs = append(r.exprs, &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})
	r.why = why
	return r
}

func meta(key expr.MetaKey) expr.Any {
	return &expr.Meta{Key: key, Register: reg}
}

func payload(base expr.PayloadBase, register, offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: base, Offset: offset, Len: length}
}

func compare(op expr.CmpOp, data []byte) expr.Any {
	return &expr.Cmp{Op: op, Register: reg, Data: data}
}

func ifName(name string) []byte {
	b := make([]byte, ifNameBytes)
	copy(b, name)
	return b
}

func iif(name string) cond {
	return cond{meta(expr.MetaKeyIIFNAME), compare(expr.CmpOpEq, ifName(name))}
}

func oif(name string) cond {
	return cond{meta(expr.MetaKeyOIFNAME), compare(expr.CmpOpEq, ifName(name))}
}

func oifNot(name string) cond {
	return cond{meta(expr.MetaKeyOIFNAME), compare(expr.CmpOpNeq, ifName(name))}
}

func iifIn(s set) cond {
	return cond{meta(expr.MetaKeyIIFNAME), &expr.Lookup{SourceRegister: reg, SetName: s.name}}
}

func oifIn(s set) cond {
	return cond{meta(expr.MetaKeyOIFNAME), &expr.Lookup{SourceRegister: reg, SetName: s.name}}
}

func ipv4() cond {
	return cond{meta(expr.MetaKeyNFPROTO), compare(expr.CmpOpEq, []byte{unix.NFPROTO_IPV4})}
}

func sourceIn(p netip.Prefix) cond { return addressIn(p, ipSource) }

func destinationIn(p netip.Prefix) cond { return addressIn(p, ipDestination) }

func addressIn(p netip.Prefix, offset uint32) cond {
	return cond{
		payload(expr.PayloadBaseNetworkHeader, reg, offset, ipBytes),
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: ipBytes, Mask: net.CIDRMask(p.Bits(), 32), Xor: make([]byte, ipBytes)},
		compare(expr.CmpOpEq, p.Addr().AsSlice()),
	}
}

func ctState(bits uint32) cond {
	return cond{
		&expr.Ct{Key: expr.CtKeySTATE, Register: reg},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		compare(expr.CmpOpNeq, make([]byte, 4)),
	}
}

// etherIs looks at the header and not at the kernel's idea of the protocol,
// which is that of the packet inside a VLAN tag.
func etherIs(protocol uint16) cond {
	return cond{
		payload(expr.PayloadBaseLLHeader, reg, etherType, typeBytes),
		compare(expr.CmpOpEq, binary.BigEndian.AppendUint16(nil, protocol)),
	}
}

// toLinkLocal matches 01:80:c2:00:00:00 to :0f, the reserved multicast
// addresses of IEEE 802.1D.
func toLinkLocal() cond {
	return cond{
		payload(expr.PayloadBaseLLHeader, reg, etherDestination, macBytes),
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: macBytes, Mask: []byte{255, 255, 255, 255, 255, 0xf0}, Xor: make([]byte, macBytes)},
		compare(expr.CmpOpEq, []byte{0x01, 0x80, 0xc2, 0, 0, 0}),
	}
}

// notARPForIPv4 matches an ARP header of other than Ethernet and IPv4 with
// their lengths, where the sender's addresses lie elsewhere.
func notARPForIPv4() cond {
	return cond{
		payload(expr.PayloadBaseNetworkHeader, reg, 0, 6),
		compare(expr.CmpOpNeq, []byte{0, 1, 8, 0, macBytes, ipBytes}),
	}
}

func udpFrom(port uint16) cond {
	return cond{
		meta(expr.MetaKeyL4PROTO), compare(expr.CmpOpEq, []byte{unix.IPPROTO_UDP}),
		payload(expr.PayloadBaseTransportHeader, reg, portSource, portBytes),
		compare(expr.CmpOpEq, binary.BigEndian.AppendUint16(nil, port)),
	}
}

// sourceInSet matches IPv4 packets whose source is in a set.
func sourceInSet(name string) cond {
	return cond{payload(expr.PayloadBaseNetworkHeader, reg, ipSource, ipBytes), &expr.Lookup{SourceRegister: reg, SetName: name}}
}

// pairIn matches IPv4 packets whose source and destination, and with withPort
// the destination's port, are in a set.
func pairIn(name string, withPort bool) cond {
	c := cond{
		payload(expr.PayloadBaseNetworkHeader, reg, ipSource, ipBytes),
		payload(expr.PayloadBaseNetworkHeader, regSecond, ipDestination, ipBytes),
	}
	if withPort {
		c = append(c, payload(expr.PayloadBaseTransportHeader, regThird, portDestination, portBytes))
	}
	return append(c, &expr.Lookup{SourceRegister: reg, SetName: name})
}

func protocol(number byte) cond {
	return cond{meta(expr.MetaKeyL4PROTO), compare(expr.CmpOpEq, []byte{number})}
}

// portTo matches packets of a protocol with ports to one.
func portTo(number byte, port uint16) cond {
	return append(protocol(number), payload(expr.PayloadBaseTransportHeader, reg, portDestination, portBytes),
		compare(expr.CmpOpEq, binary.BigEndian.AppendUint16(nil, port)))
}

// pings matches ICMP echo requests (type 8, RFC 792).
func pings() cond {
	return append(protocol(unix.IPPROTO_ICMP), payload(expr.PayloadBaseTransportHeader, reg, 0, 1), compare(expr.CmpOpEq, []byte{8}))
}

// toHost matches packets to an address of the host's own.
func toHost() cond {
	return cond{&expr.Fib{Register: reg, ResultADDRTYPE: true, FlagDADDR: true}, compare(expr.CmpOpEq, binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL))}
}

// replies matches packets of connections that the other side began.
func replies() cond {
	return cond{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: reg}, compare(expr.CmpOpEq, []byte{1})}
}

// redirected matches packets whose destination was another (IPS_DST_NAT of
// linux/netfilter/nf_conntrack_common.h).
func redirected() cond {
	const dstNAT = 1 << 5
	return cond{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: reg},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(dstNAT), Xor: make([]byte, 4)},
		compare(expr.CmpOpNeq, make([]byte, 4)),
	}
}

func sentBy(uid uint32) cond {
	return cond{meta(expr.MetaKeySKUID), compare(expr.CmpOpEq, binaryutil.NativeEndian.PutUint32(uid))}
}

// redirect sends TCP or UDP to a port of the address of the interface that it
// came from.
func redirect(port uint16) cond {
	return cond{
		&expr.Immediate{Register: reg, Data: binary.BigEndian.AppendUint16(nil, port)},
		&expr.Redir{RegisterProtoMin: reg, RegisterProtoMax: reg, Flags: unix.NF_NAT_RANGE_PROTO_SPECIFIED},
	}
}

// report copies the headers of a packet to the egress process.
func report() cond {
	const headers = 128
	return cond{&expr.Log{Key: 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_SNAPLEN, Group: spec.EgressLogGroup, Snaplen: headers}}
}

// refuse tells the sender at once: a time-out would tell nothing.
func refuse(kind uint32, code byte) cond {
	return cond{&expr.Counter{}, &expr.Reject{Type: kind, Code: code}}
}

func notIn(s set, sources ...expr.Any) cond {
	return append(cond(sources), &expr.Lookup{SourceRegister: reg, SetName: s.name, Invert: true})
}

func verdict(kind expr.VerdictKind, chain string) cond {
	return cond{&expr.Verdict{Kind: kind, Chain: chain}}
}

func accept() cond           { return verdict(expr.VerdictAccept, "") }
func jump(chain string) cond { return verdict(expr.VerdictJump, chain) }
func goTo(chain string) cond { return verdict(expr.VerdictGoto, chain) }
func masquerade() cond       { return cond{&expr.Masq{}} }
