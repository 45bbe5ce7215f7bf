package preflight

import (
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
	// XT_CONNTRACK_STATE and XT_CONNTRACK_STATE_ALIAS.
	conntrackState = 1 | 1<<13
)

// xtMatch says whether a match of iptables holds for a packet.
func xtMatch(name string, revision uint32, info []byte, p packet) truth {
	switch {
	case name == "comment":
		return yes
	case name == "udp", name == "icmp":
		return no
	case name == "conntrack" && revision >= 1 && revision <= 3 && len(info) >= conntrackStates+2:
		return matchStates(revision, info, p)
	case name == "state" && len(info) >= 4:
		return asTruth(binary.NativeEndian.Uint32(info)&p.state != 0)
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
	holds := asTruth((states&p.state != 0) != (inverts&1 != 0))
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
