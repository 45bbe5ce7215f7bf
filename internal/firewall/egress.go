package firewall

import (
	"cmp"
	"encoding/binary"
	"math"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"bield/internal/spec"
)

// dnsPort is where name servers are asked (RFC 1035, section 4.2), webPort
// where web servers are (RFC 9110, section 4.2.1).
const dnsPort, webPort = 53, 80

// egressSets say which guest may go where: `open` and `public` hold addresses of
// guests of these modes, `allowed` what each may reach besides.
func egressSets(guests []guest) []set {
	address, port := nftables.TypeIPAddr, nftables.TypeInetService
	open := set{name: setOpen, types: []nftables.SetDatatype{address}}
	public := set{name: setPublic, types: []nftables.SetDatatype{address}}
	allowed := set{name: setAllowed, types: []nftables.SetDatatype{address, address}, ranges: true}
	allowedPort := set{name: setAllowedPort, types: []nftables.SetDatatype{address, address, port}, ranges: true}
	for _, g := range guests {
		switch g.egress.Effective() {
		case spec.EgressOpen:
			open.keys = append(open.keys, g.ip.AsSlice())
		case spec.EgressPublic:
			public.keys = append(public.keys, g.ip.AsSlice())
		}
		for _, t := range disjoint(g.egress.Allow) {
			first, last := bounds(t.Prefix)
			if t.Port == 0 {
				allowed.add(slices.Concat(g.ip.AsSlice(), first), slices.Concat(g.ip.AsSlice(), last))
				continue
			}
			end := binary.BigEndian.AppendUint16(nil, t.Port)
			end = append(end, 0, 0) // a register
			allowedPort.add(slices.Concat(g.ip.AsSlice(), first, end), slices.Concat(g.ip.AsSlice(), last, end))
		}
	}
	return []set{open, public, allowed, allowedPort}
}

func (s *set) add(first, last []byte) {
	s.keys, s.ends = append(s.keys, first), append(s.ends, last)
}

// disjoint is the networks of a list, each port's without those that lie in
// another: the kernel takes no ranges that overlap.
func disjoint(targets []spec.Target) []spec.Target {
	type key struct {
		prefix netip.Prefix
		port   uint16
	}
	listed := map[key]bool{}
	for _, t := range targets {
		if t.Prefix.IsValid() {
			listed[key{t.Prefix, t.Port}] = true
		}
	}
	covered := func(k key) bool {
		for bits := range k.prefix.Bits() {
			if above, err := k.prefix.Addr().Prefix(bits); err == nil && listed[key{above, k.port}] {
				return true
			}
		}
		return false
	}
	var kept []spec.Target
	for k := range listed {
		if !covered(k) {
			kept = append(kept, spec.Target{Prefix: k.prefix, Port: k.port})
		}
	}
	slices.SortFunc(kept, func(a, b spec.Target) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()), cmp.Compare(a.Port, b.Port))
	})
	return kept
}

// bounds are the first and last address of a network.
func bounds(p netip.Prefix) (first, last []byte) {
	first = p.Addr().AsSlice()
	n := binary.BigEndian.Uint32(first) | uint32(uint64(math.MaxUint32)>>p.Bits())
	return first, binary.BigEndian.AppendUint32(nil, n)
}

// egressChains send to the egress process what it decides on, and say what
// guests reach without it. They look at each packet, and not at the first of a
// connection alone: what is forbidden while it runs ends.
func egressChains(c Config) []chain {
	chains := []chain{
		{name: chainSteer, rules: steer(c)},
		{name: chainEgress, rules: []rule{
			on(sourceInSet(setOpen), accept()),
			// Redirected, or the egress process is not there.
			on(portTo(unix.IPPROTO_UDP, dnsPort), goTo(chainRefuse)),
			on(portTo(unix.IPPROTO_TCP, dnsPort), goTo(chainRefuse)),
			on(pairIn(setAllowed, false), accept()),
			on(protocol(unix.IPPROTO_TCP), pairIn(setAllowedPort, true), accept()),
			on(protocol(unix.IPPROTO_UDP), pairIn(setAllowedPort, true), accept()),
			on(sourceInSet(setPublic), goTo(chainPublic)),
			on(goTo(chainRefuse)),
		}},
		{name: chainPublic, rules: append(each(spec.NonPublic(), func(p netip.Prefix) rule {
			return on(destinationIn(p), goTo(chainRefuse))
		}), on(accept()))},
		{name: chainRefuse, rules: []rule{
			on(report()),
			on(protocol(unix.IPPROTO_TCP), refuse(unix.NFT_REJECT_TCP_RST, 0)),
			on(refuse(unix.NFT_REJECT_ICMPX_UNREACH, unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED)),
		}},
	}
	if c.Ports != (Ports{}) {
		chains = append(chains, chain{
			name:  chainPre + "_nat",
			base:  &base{nftables.ChainTypeNAT, unix.NF_INET_PRE_ROUTING, redirection},
			rules: []rule{on(iif(c.Bridge), ipv4(), sourceIn(c.Subnet), goTo(chainSteer))},
		})
	}
	return chains
}

func each[T any](all []T, ruleFor func(T) rule) []rule {
	var rules []rule
	for _, one := range all {
		rules = append(rules, ruleFor(one))
	}
	return rules
}

// steer redirects new connections of guests that are not of mode open.
func steer(c Config) []rule {
	if c.Ports == (Ports{}) {
		return nil
	}
	tcp := protocol(unix.IPPROTO_TCP)
	rules := []rule{
		on(sourceInSet(setOpen), accept()),
		// Other guests are no matter of names, also where br_netfilter shows
		// bridged packets.
		on(destinationIn(c.Subnet), notTo(c.Gateway), accept()),
	}
	rules = append(rules,
		on(portTo(unix.IPPROTO_UDP, dnsPort), redirect(c.Ports.DNS)),
		on(portTo(unix.IPPROTO_TCP, dnsPort), redirect(c.Ports.DNSTCP)))
	if !c.TrustBridge && !slices.Contains(c.HostPorts, spec.HostPort{Protocol: "tcp", Port: webPort}) {
		rules = append(rules, on(to(c.Gateway), portTo(unix.IPPROTO_TCP, webPort), redirect(c.Ports.Proxy)))
	}
	rules = append(rules,
		on(toHost(), accept()),
		on(pairIn(setAllowed, false), accept()),
		on(tcp, pairIn(setAllowedPort, true), accept()))
	for _, p := range spec.NonPublic() {
		rules = append(rules, on(sourceInSet(setPublic), destinationIn(p), tcp, redirect(c.Ports.Proxy)))
	}
	return append(rules,
		on(sourceInSet(setPublic), accept()),
		on(tcp, redirect(c.Ports.Proxy)))
}

func to(a netip.Addr) cond { return destinationIn(netip.PrefixFrom(a, 32)) }

func notTo(a netip.Addr) cond {
	return cond{payload(expr.PayloadBaseNetworkHeader, reg, ipDestination, ipBytes), compare(expr.CmpOpNeq, a.AsSlice())}
}

// inputChains say what the host itself takes from guests.
func inputChains(c Config) []chain {
	var rules []rule
	if c.TrustBridge {
		rules = []rule{on(accept())}
	} else {
		rules = append(rules,
			on(replies(), accept()),
			on(ctState(expr.CtStateBitRELATED), accept()),
			on(pings(), accept()))
		for _, p := range c.HostPorts {
			rules = append(rules, on(portTo(protocolOf(p), p.Port), accept()))
		}
		if c.Ports != (Ports{}) {
			rules = append(rules,
				on(redirected(), portTo(unix.IPPROTO_UDP, c.Ports.DNS), accept()),
				on(redirected(), portTo(unix.IPPROTO_TCP, c.Ports.DNSTCP), accept()),
				on(redirected(), portTo(unix.IPPROTO_TCP, c.Ports.Proxy), accept()))
		}
		rules = append(rules, on(goTo(chainRefuse)))
	}
	return []chain{
		{name: chainInput, base: &base{nftables.ChainTypeFilter, unix.NF_INET_LOCAL_IN, filter}, rules: []rule{
			on(iif(c.Bridge), jump(chainFromInput)),
		}},
		{name: chainFromInput, rules: rules},
	}
}

func protocolOf(p spec.HostPort) byte {
	if p.Protocol == "udp" {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

// outputChains keep the egress process, should a guest take it over, from the
// host itself, from guests, and from private addresses unless names that some
// guest may reach can have them.
func outputChains(c Config, guests []guest) []chain {
	rules := []rule{on(replies(), accept())}
	for _, server := range c.Nameservers {
		rules = append(rules,
			on(to(server), portTo(unix.IPPROTO_UDP, dnsPort), accept()),
			on(to(server), portTo(unix.IPPROTO_TCP, dnsPort), accept()))
	}
	rules = append(rules, deny("to a guest", oif(c.Bridge)), deny("to the host", toHost()))
	if !slices.ContainsFunc(guests, namesPrivate) {
		rules = append(rules, each(spec.NonPublic(), func(p netip.Prefix) rule { return deny("to a private address", destinationIn(p)) })...)
	}
	return []chain{
		{name: chainOutput, base: &base{nftables.ChainTypeFilter, unix.NF_INET_LOCAL_OUT, filter}, rules: []rule{
			on(sentBy(spec.EgressUID), goTo(chainProcess)),
		}},
		{name: chainProcess, rules: rules},
	}
}

// namesPrivate says that a guest may reach names at private addresses.
func namesPrivate(g guest) bool {
	private := func(t spec.Target) bool { return t.Private }
	named := func(t spec.Target) bool { return t.Name != "" }
	return slices.ContainsFunc(g.egress.Names, private) || slices.ContainsFunc(g.egress.Allow, named)
}
