package obstacles

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// xtTarget is what a target of iptables does. Those that are not known may
// decide anything.
func xtTarget(name string) (o outcome, done bool) {
	switch {
	case name == "REJECT", name == "DROP":
		return outcome{verb: drop}, true
	case name == "ACCEPT":
		return outcome{verb: accept}, true
	case name == "RETURN":
		return outcome{verb: back}, true
	case slices.Contains([]string{"LOG", "NFLOG", "MARK", "CONNMARK", "TRACE", "CT", "NOTRACK", "TCPMSS", "CHECKSUM", "SET", "DSCP", "TOS", "CLASSIFY", "AUDIT", "SECMARK", "CONNSECMARK", "TTL", "RATEEST"}, name):
		return outcome{verb: next}, true
	}
	return outcome{verb: accept}, true
}

// Where struct xt_conntrack_mtinfo1 to 3 (linux/netfilter/xt_conntrack.h) has
// what it matches: behind eight addresses of 16 bytes, two times, and five ports.
const (
	conntrackMatches = 146
	conntrackInverts = 148
	conntrackStates  = 150
	// stateDNAT is XT_CONNTRACK_STATE_DNAT, bit IP_CT_NUMBER (5) + 2.
	stateDNAT = 1 << 7
	// XT_CONNTRACK_STATE and XT_CONNTRACK_STATE_ALIAS.
	conntrackState = 1 | 1<<13
)

// xtMatch says whether a match of iptables holds for a packet.
func xtMatch(name string, revision uint32, info []byte, p packet) truth {
	switch {
	case name == "comment":
		return yes
	case name == "tcp", name == "udp":
		return matchPorts(name, info, p)
	case name == "icmp":
		return no
	case name == "addrtype":
		return matchType(revision, info, p)
	case name == "conntrack" && revision >= 1 && revision <= 3 && len(info) >= conntrackStates+2:
		return matchStates(revision, info, p)
	case name == "state" && len(info) >= 4:
		return asTruth(binary.NativeEndian.Uint32(info)&p.state != 0)
	}
	return maybe
}

// matchPorts reads struct xt_tcp and xt_udp (linux/netfilter/xt_tcpudp.h): two
// ports of the source, two of the destination, both in the host's order, and at
// the end which of these are inverted; xt_tcp has flags in between.
func matchPorts(name string, info []byte, p packet) truth {
	if number(name) != p.number() {
		return no
	}
	inverts := map[string]int{"tcp": 11, "udp": 8}[name]
	if len(info) <= inverts || p.port == 0 {
		return maybe
	}
	port := func(at int) uint16 { return binary.NativeEndian.Uint16(info[at:]) }
	in := p.port >= port(4) && p.port <= port(6)
	holds := asTruth(in != (info[inverts]&2 != 0))
	anySource := port(0) == 0 && port(2) == 0xffff && info[inverts]&1 == 0
	noFlags := name == "udp" || info[8] == 0 && info[9] == 0
	if anySource && noFlags {
		return holds
	}
	return min(holds, maybe)
}

// Types of addresses, as bits of xt_addrtype (linux/netfilter/xt_addrtype.h).
const (
	typeLocal = 1 << 2
	// typeOthers are broadcast, multicast and the like: no single host's.
	typeOthers = 1<<3 | 1<<5 | 1<<6 | 1<<7 | 1<<8
)

// matchType reads struct xt_addrtype_info: types of source and destination, and
// what is inverted or limited.
func matchType(revision uint32, info []byte, p packet) truth {
	if len(info) < 8 || revision > 1 {
		return maybe
	}
	source, destination := binary.NativeEndian.Uint16(info), binary.NativeEndian.Uint16(info[2:])
	plain := bytes.Equal(info[4:8], []byte{0, 0, 0, 0}) && (revision == 1 || len(info) < 12 || bytes.Equal(info[8:12], []byte{0, 0, 0, 0}))
	if source != 0 || !plain {
		return maybe
	}
	return p.destined(destination)
}

// destined says whether the destination is of one of these types.
func (p packet) destined(types uint16) truth {
	switch {
	case !p.toHost:
		return maybe
	case types&typeLocal != 0:
		return yes
	case types&^typeOthers == 0:
		return no
	}
	return maybe
}

func matchStates(revision uint32, info []byte, p packet) truth {
	what := binary.NativeEndian.Uint16(info[conntrackMatches:])
	inverts := binary.NativeEndian.Uint16(info[conntrackInverts:])
	states := uint32(binary.NativeEndian.Uint16(info[conntrackStates:]))
	if revision == 1 {
		states = uint32(info[conntrackStates])
	}
	if what&1 == 0 {
		return maybe
	}
	have := p.state
	if p.redirected {
		have |= stateDNAT
	}
	holds := asTruth((states&have != 0) != (inverts&1 != 0))
	if what&^uint16(conntrackState) != 0 {
		return min(holds, maybe)
	}
	return holds
}

func asTruth(b bool) truth {
	if b {
		return yes
	}
	return no
}
