package obstacles

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// truth says whether a rule matches a packet of which not all is known.
type truth int8

const (
	no truth = iota
	maybe
	yes
)

// verb is what a rule does with a packet that it matches.
type verb int8

const (
	next   verb = iota // goes on with the next rule
	accept             // ends this base chain; others of the hook still see it
	drop
	jump
	goTo
	back // return
)

// outcome is what a rule says to a packet. chain is that of jump and goTo.
type outcome struct {
	match truth
	verb  verb
	chain string
}

// rule is one rule of any firewall.
type rule func(packet) outcome

// chain is a chain of rules. A base chain is one that a hook calls.
type chain struct {
	name  string
	hook  string // "" for a chain that is only jumped to
	rules []rule
	// drops is a base chain's policy.
	drops bool
}

// table holds chains that may jump to each other.
type table struct {
	// family is "ip", "inet" or "bridge"; command shows and changes it: "nft",
	// "iptables-legacy".
	family, name, command string
	chains                map[string]*chain
}

// end is one side of a packet's way: an interface.
type end struct {
	// known is false where it may be any.
	known bool
	// name is "" where the packet has none at this hook.
	name  string
	index uint32
}

// packet is a kind of packet that bield's guests need, of IPv4.
type packet struct {
	// protocol is a number of IP's; 0 is TCP. port is the destination's; 0 is any.
	protocol byte
	port     uint16
	// redirected says that bield's own rules have changed its destination.
	redirected bool
	// toHost says that its destination is an address of the host's.
	toHost  bool
	in, out end
	// source and destination hold the address; the zero Prefix is any.
	source, destination netip.Prefix
	// state is one bit of the conntrack states.
	state uint32
}

// number is the packet's protocol.
func (p packet) number() byte {
	if p.protocol == 0 {
		return unix.IPPROTO_TCP
	}
	return p.protocol
}

// Conntrack states, NF_CT_STATE_BIT of linux/netfilter/nf_conntrack_common.h.
// xt_conntrack's are the same.
const (
	stateInvalid     = 1
	stateEstablished = 2
	stateRelated     = 4
	stateNew         = 8
	stateUntracked   = 64
)

// fate is how a chain ends for a packet: accept, drop, or next for its end.
type fate struct {
	verb verb
	// unsure says that an earlier rule, or a part of it that is not understood,
	// may have decided otherwise.
	unsure bool
	// at is the chain that drops, by its policy or one of its rules.
	at     string
	policy bool
}

// maxDepth bounds jumps: the kernel allows 16 (NFT_JUMP_STACK_SIZE).
const maxDepth = 16

// judge says what a base chain does with a packet.
func (t table) judge(base *chain, p packet) fate {
	f := t.walk(base.name, p, map[string]fate{}, 0)
	if f.verb == next && base.drops {
		return fate{verb: drop, unsure: f.unsure, at: base.name, policy: true}
	}
	return f
}

func (t table) walk(name string, p packet, known map[string]fate, depth int) fate {
	if f, walked := known[name]; walked {
		return f
	}
	c, there := t.chains[name]
	if !there || depth > maxDepth {
		return fate{unsure: true}
	}
	f := t.follow(c, p, known, depth)
	known[name] = f
	return f
}

// follow goes through the rules of a chain. A rule that may match and drops is
// a filter of some packets, which is its owner's right; one that may match and
// accepts makes unsure what comes behind it.
func (t table) follow(c *chain, p packet, known map[string]fate, depth int) fate {
	var f fate
	for _, r := range c.rules {
		o := r(p)
		if o.match == no || o.verb == next {
			continue
		}
		switch o.verb {
		case jump, goTo:
			below := t.walk(o.chain, p, known, depth+1)
			if o.match == yes && (below.verb != next || o.verb == goTo) {
				below.unsure = below.unsure || f.unsure
				return below
			}
			f.unsure = f.unsure || below.unsure || o.match == maybe && (below.verb == accept || o.verb == goTo)
		default:
			if o.match == maybe {
				f.unsure = f.unsure || o.verb != drop
				continue
			}
			return ended(o.verb, f.unsure, c.name)
		}
	}
	return f
}

func ended(v verb, unsure bool, at string) fate {
	switch v {
	case drop:
		return fate{verb: drop, unsure: unsure, at: at}
	case accept:
		return fate{verb: accept, unsure: unsure}
	}
	return fate{unsure: unsure}
}
