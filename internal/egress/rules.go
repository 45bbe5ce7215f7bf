package egress

import (
	"net/netip"
	"slices"
	"strings"

	"bield/internal/spec"
)

// rules are a policy made ready for questions; they never change.
type rules struct {
	policy    Policy
	version   string
	byAddress map[netip.Addr]*guest
	byName    map[string]*guest
	nonPublic []netip.Prefix
	// never holds what no rule opens: this network, loopback, multicast and
	// reserved. linkLocal is opened by addresses, not by names: whoever answers
	// for a name could point it at a metadata service.
	never     []netip.Prefix
	linkLocal netip.Prefix
	// own says that an address is one of the host's.
	own func(netip.Addr) bool
}

// guest is one VM with its targets in the form they are looked for.
type guest struct {
	VM
	mode  spec.EgressMode
	exact map[string][]grant
	below map[string][]grant // *.example.org as example.org
	nets  []spec.Target
}

// grant is a target that a name matched.
type grant struct {
	spec.Target
	list string // "names" or "allow"
}

// private says that the name may have an address that is not public.
func (g grant) private() bool { return g.list == "allow" || g.Private }

// opens says that the port is open; port 0 asks for any.
func (g grant) opens(port uint16) bool {
	switch {
	case port == 0, g.Port == port:
		return true
	case g.Port == 0:
		return g.list == "allow" || port == portHTTP || port == portHTTPS
	}
	return false
}

func (g grant) String() string { return g.list + ": " + g.Target.String() }

const (
	portHTTP  = 80
	portHTTPS = 443
)

func newRules(p Policy, own func(netip.Addr) bool) *rules {
	r := &rules{
		policy: p, version: p.Version(), own: own,
		byAddress: map[netip.Addr]*guest{}, byName: map[string]*guest{},
		nonPublic: spec.NonPublic(),
		never: []netip.Prefix{
			netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("224.0.0.0/3"),
		},
		linkLocal: netip.MustParsePrefix("169.254.0.0/16"),
	}
	for _, v := range p.VMs {
		g := newGuest(v)
		r.byAddress[v.IP], r.byName[v.Name] = g, g
	}
	return r
}

func newGuest(v VM) *guest {
	g := &guest{VM: v, mode: v.Egress.Effective(), exact: map[string][]grant{}, below: map[string][]grant{}}
	if g.mode == spec.EgressAllowlist {
		g.add("names", v.Egress.Names)
	}
	g.add("allow", v.Egress.Allow)
	return g
}

func (g *guest) add(list string, targets []spec.Target) {
	for _, t := range targets {
		switch {
		case t.Prefix.IsValid():
			g.nets = append(g.nets, t)
		case t.Wildcard():
			key := t.Name[len("*."):]
			g.below[key] = append(g.below[key], grant{t, list})
		default:
			g.exact[t.Name] = append(g.exact[t.Name], grant{t, list})
		}
	}
}

// grants are the targets that a name matches, exact ones first.
func (g *guest) grants(name string) []grant {
	if name == "" {
		return nil
	}
	found := slices.Clone(g.exact[name])
	for rest := name; ; {
		_, parent, more := strings.Cut(rest, ".")
		if !more {
			return found
		}
		found = append(found, g.below[parent]...)
		rest = parent
	}
}

// wildcardOnly says that a name is allowed by nothing but a wildcard, and gives
// the part of it that the guest has chosen.
func (g *guest) wildcardOnly(name string) (chosen string, ok bool) {
	if len(g.exact[name]) > 0 {
		return "", false
	}
	for _, m := range g.grants(name) {
		rest := strings.TrimSuffix(name, "."+m.Name[len("*."):])
		if chosen == "" || len(rest) < len(chosen) {
			chosen = rest
		}
	}
	return chosen, chosen != ""
}

// filtersNames says that only names of the lists are resolved.
func (g *guest) filtersNames() bool {
	return g.mode != spec.EgressOpen && g.mode != spec.EgressPublic
}

// public says that an address is the internet's; IPv6 is none of a guest's.
func (r *rules) public(a netip.Addr) bool {
	return a.Is4() && !within(r.nonPublic, a)
}

func within(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

func (g *guest) net(a netip.Addr, port uint16) (spec.Target, bool) {
	for _, t := range g.nets {
		if t.Prefix.Contains(a) && (port == 0 || t.Port == 0 || t.Port == port) {
			return t, true
		}
	}
	return spec.Target{}, false
}
