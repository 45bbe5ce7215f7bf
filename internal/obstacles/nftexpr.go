package obstacles

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// expression is a part of an nftables rule as the kernel lists it: its
// attributes by type, as linux/netfilter/nf_tables.h names them.
type expression struct {
	name string
	attr map[uint16][]byte
}

// number is an attribute of four bytes in network order.
func (e expression) number(attr uint16) uint32 {
	if len(e.attr[attr]) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(e.attr[attr])
}

// value is the bytes of an attribute that holds nested data.
func (e expression) value(attr uint16) []byte {
	return nested(e.attr[attr])[unix.NFTA_DATA_VALUE]
}

// elements are those of a set: the keys, and for a verdict map their verdicts.
// plain is false for what can't be looked up byte by byte.
type elements struct {
	plain    bool
	verdicts map[string]outcome
}

// registerBytes is the size of the kernel's registers behind the verdict's:
// four of 16 bytes, or sixteen of 4 that overlay them.
const registerBytes = 64

// machine runs the expressions of one rule on a packet.
type machine struct {
	packet packet
	sets   map[string]elements
	data   [registerBytes]byte
	known  [registerBytes]bool
	match  truth
}

// nftRule makes a rule of expressions. What it does not understand may match.
func nftRule(parts []expression, sets map[string]elements) rule {
	return func(p packet) outcome {
		m := machine{packet: p, sets: sets, match: yes}
		for _, e := range parts {
			if o, done := m.step(e); done || m.match == no {
				o.match = m.match
				return o
			}
		}
		return outcome{m.match, next, ""}
	}
}

// step runs one expression; done says that it decides the packet's way.
func (m *machine) step(e expression) (o outcome, done bool) {
	switch e.name {
	case "meta":
		m.meta(e)
	case "ct":
		m.ct(e)
	case "payload":
		m.payload(e)
	case "bitwise":
		m.bitwise(e)
	case "cmp":
		m.compare(e)
	case "lookup":
		return m.lookup(e)
	case "immediate":
		return m.immediate(e)
	case "match":
		m.and(xtMatch(text(e.attr[unix.NFTA_MATCH_NAME]), e.number(unix.NFTA_MATCH_REV), e.attr[unix.NFTA_MATCH_INFO], m.packet))
	case "target":
		return xtTarget(text(e.attr[unix.NFTA_TARGET_NAME]))
	case "reject":
		return outcome{verb: drop}, true
	case "queue":
		m.and(maybe)
		return outcome{verb: accept}, true
	case "counter", "log", "objref", "notrack", "last":
	default:
		// It may match or not, and may have written to any register.
		m.known = [registerBytes]bool{}
		m.and(maybe)
	}
	return outcome{}, false
}

func (m *machine) and(t truth) { m.match = min(m.match, t) }

func text(b []byte) string { return string(bytes.TrimRight(b, "\x00")) }

// offset is where a register begins: 1 to 4 are the large ones, 8 and up
// (NFT_REG32_00) the small.
func offset(register uint32) int {
	switch {
	case register >= unix.NFT_REG_1 && register <= unix.NFT_REG_4:
		return int(register-unix.NFT_REG_1) * 16
	case register >= 8 && register < 24:
		return int(register-8) * 4
	}
	return registerBytes
}

// store writes data of which the first bytes are known, and zeroes up to a whole
// small register, as the kernel does.
func (m *machine) store(register uint32, data []byte, known int) {
	at := offset(register)
	for i := range (len(data) + 3) / 4 * 4 {
		if at+i >= registerBytes {
			return
		}
		m.known[at+i] = i < known || i >= len(data) && known == len(data)
		m.data[at+i] = 0
		if i < len(data) {
			m.data[at+i] = data[i]
		}
	}
}

// load returns the bytes of a register, and whether all of them are known.
func (m *machine) load(register uint32, length int) ([]byte, bool) {
	at := offset(register)
	if length <= 0 || at+length > registerBytes {
		return nil, false
	}
	for i := range length {
		if !m.known[at+i] {
			return nil, false
		}
	}
	return m.data[at : at+length], true
}

func (m *machine) meta(e expression) {
	if e.attr[unix.NFTA_META_SREG] != nil {
		return // sets a mark or the like
	}
	to := e.number(unix.NFTA_META_DREG)
	switch key := e.number(unix.NFTA_META_KEY); key {
	case unix.NFT_META_IIFNAME, unix.NFT_META_OIFNAME:
		side := m.side(key == unix.NFT_META_OIFNAME)
		name := make([]byte, unix.IFNAMSIZ)
		copy(name, side.name)
		m.storeSide(to, side, name)
	case unix.NFT_META_IIF, unix.NFT_META_OIF:
		side := m.side(key == unix.NFT_META_OIF)
		m.storeSide(to, side, binary.NativeEndian.AppendUint32(nil, side.index))
	case unix.NFT_META_NFPROTO:
		m.store(to, []byte{unix.NFPROTO_IPV4}, 1)
	case unix.NFT_META_L4PROTO:
		m.store(to, []byte{m.packet.number()}, 1)
	case unix.NFT_META_PROTOCOL:
		m.store(to, binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP), 2)
	default:
		m.store(to, make([]byte, unix.IFNAMSIZ), 0)
	}
}

func (m *machine) side(out bool) end {
	if out {
		return m.packet.out
	}
	return m.packet.in
}

// storeSide: where a packet has no such interface, the rule does not match.
func (m *machine) storeSide(to uint32, side end, data []byte) {
	switch {
	case !side.known:
		m.store(to, data, 0)
	case side.name == "":
		m.and(no)
	default:
		m.store(to, data, len(data))
	}
}

func (m *machine) ct(e expression) {
	to := e.number(unix.NFTA_CT_DREG)
	if e.attr[unix.NFTA_CT_DREG] == nil {
		return // sets a mark or the like
	}
	switch key := e.number(unix.NFTA_CT_KEY); {
	case key == unix.NFT_CT_STATE:
		m.store(to, binary.NativeEndian.AppendUint32(nil, m.packet.state), 4)
	case key == unix.NFT_CT_STATUS && m.packet.redirected:
		m.store(to, binary.NativeEndian.AppendUint32(nil, dnatStatus), 4)
	case key == unix.NFT_CT_STATUS && m.packet.state == stateNew:
		m.store(to, make([]byte, 4), 4) // neither confirmed nor translated yet
	default:
		m.store(to, make([]byte, 16), 0)
	}
}

// dnatStatus is that of a new connection whose destination was changed:
// IPS_DST_NAT and IPS_DST_NAT_DONE of linux/netfilter/nf_conntrack_common.h.
const dnatStatus = 1<<5 | 1<<8

// portAt is where TCP and UDP have the destination's port.
const portAt = 2

// Where the protocol and the addresses stand in an IPv4 header (RFC 791).
const protocolAt, sourceAt, destinationAt = 9, 12, 16

func (m *machine) payload(e expression) {
	if e.attr[unix.NFTA_PAYLOAD_SREG] != nil {
		return // changes the packet
	}
	to, at, length := e.number(unix.NFTA_PAYLOAD_DREG), e.number(unix.NFTA_PAYLOAD_OFFSET), e.number(unix.NFTA_PAYLOAD_LEN)
	header := e.number(unix.NFTA_PAYLOAD_BASE) == unix.NFT_PAYLOAD_NETWORK_HEADER
	var p netip.Prefix
	var from uint32
	transport := e.number(unix.NFTA_PAYLOAD_BASE) == unix.NFT_PAYLOAD_TRANSPORT_HEADER
	switch {
	case transport && at == portAt && length == 2 && m.packet.port != 0:
		m.store(to, binary.BigEndian.AppendUint16(nil, m.packet.port), 2)
		return
	case header && at == protocolAt && length == 1:
		m.store(to, []byte{m.packet.number()}, 1)
		return
	case header && at >= sourceAt && at+length <= sourceAt+4:
		p, from = m.packet.source, at-sourceAt
	case header && at >= destinationAt && at+length <= destinationAt+4:
		p, from = m.packet.destination, at-destinationAt
	}
	if !p.IsValid() || length > 4 {
		m.store(to, make([]byte, min(length, registerBytes)), 0)
		return
	}
	whole := p.Addr().As4()
	known := max(0, min(p.Bits()/8-int(from), int(length)))
	m.store(to, whole[from:from+length], known)
}

// bitwise is dest = source & mask ^ xor; a shift is not understood.
func (m *machine) bitwise(e expression) {
	from, to := offset(e.number(unix.NFTA_BITWISE_SREG)), e.number(unix.NFTA_BITWISE_DREG)
	length := int(min(e.number(unix.NFTA_BITWISE_LEN), registerBytes))
	mask, xor := e.value(unix.NFTA_BITWISE_MASK), e.value(unix.NFTA_BITWISE_XOR)
	if len(mask) != length || len(xor) != length || from+length > registerBytes {
		m.store(to, make([]byte, length), 0)
		return
	}
	at := offset(to)
	for i := range length {
		if at+i >= registerBytes {
			return
		}
		m.known[at+i] = m.known[from+i] || mask[i] == 0
		m.data[at+i] = m.data[from+i]&mask[i] ^ xor[i]
	}
}

func (m *machine) compare(e expression) {
	want := e.value(unix.NFTA_CMP_DATA)
	have, known := m.load(e.number(unix.NFTA_CMP_SREG), len(want))
	if !known {
		m.and(maybe)
		return
	}
	order := bytes.Compare(have, want)
	holds := map[uint32]bool{
		unix.NFT_CMP_EQ: order == 0, unix.NFT_CMP_NEQ: order != 0,
		unix.NFT_CMP_LT: order < 0, unix.NFT_CMP_LTE: order <= 0,
		unix.NFT_CMP_GT: order > 0, unix.NFT_CMP_GTE: order >= 0,
	}[e.number(unix.NFTA_CMP_OP)]
	if !holds {
		m.and(no)
	}
}

func (m *machine) lookup(e expression) (outcome, bool) {
	set := m.sets[text(e.attr[unix.NFTA_LOOKUP_SET])]
	toVerdict := e.attr[unix.NFTA_LOOKUP_DREG] != nil && e.number(unix.NFTA_LOOKUP_DREG) == unix.NFT_REG_VERDICT
	key, known := m.load(e.number(unix.NFTA_LOOKUP_SREG), set.keyBytes())
	if !set.plain || !known {
		m.and(maybe)
		if to := e.attr[unix.NFTA_LOOKUP_DREG]; to != nil && !toVerdict {
			m.store(e.number(unix.NFTA_LOOKUP_DREG), make([]byte, 16), 0)
		}
		// It may accept, which makes unsure what comes behind.
		return outcome{verb: accept}, toVerdict
	}
	o, member := set.verdicts[string(key)]
	inverted := e.number(unix.NFTA_LOOKUP_FLAGS)&unix.NFT_LOOKUP_F_INV != 0
	if member == inverted {
		m.and(no)
	}
	if to := e.attr[unix.NFTA_LOOKUP_DREG]; to != nil && !toVerdict {
		m.store(e.number(unix.NFTA_LOOKUP_DREG), make([]byte, 16), 0)
	}
	return o, toVerdict
}

// keyBytes is the length of the keys; those of a plain set are all alike.
func (s elements) keyBytes() int {
	for key := range s.verdicts {
		return len(key)
	}
	return 1
}

func (m *machine) immediate(e expression) (outcome, bool) {
	data := nested(e.attr[unix.NFTA_IMMEDIATE_DATA])
	if e.number(unix.NFTA_IMMEDIATE_DREG) != unix.NFT_REG_VERDICT {
		value := data[unix.NFTA_DATA_VALUE]
		m.store(e.number(unix.NFTA_IMMEDIATE_DREG), value, len(value))
		return outcome{}, false
	}
	return verdict(data[unix.NFTA_DATA_VERDICT]), true
}

// verdict reads nested NFTA_VERDICT attributes.
func verdict(data []byte) outcome {
	v := expression{attr: nested(data)}
	o := outcome{chain: text(v.attr[unix.NFTA_VERDICT_CHAIN])}
	switch code := int32(v.number(unix.NFTA_VERDICT_CODE)); code {
	case unix.NFT_RETURN:
		o.verb = back
	case unix.NFT_JUMP:
		o.verb = jump
	case unix.NFT_GOTO:
		o.verb = goTo
	case nfDrop:
		o.verb = drop
	case nfAccept:
		o.verb = accept
	}
	return o
}

// Verdicts of linux/netfilter.h.
const nfDrop, nfAccept = 0, 1
