package egress

import (
	"fmt"
	"net/netip"

	"bield/internal/spec"
)

// Verdict is an answer about one place, and why.
type Verdict struct {
	Allowed bool `json:"allowed"`
	// Rule is what decided: "names: *.example.org", "allow: 10.0.0.5:443",
	// "mode public", or "" where nothing opens the place.
	Rule string `json:"rule,omitempty"`
	// Reason says why not, and what to do, in words for a person or an agent.
	Reason string `json:"reason,omitempty"`
}

func allowed(rule string) Verdict { return Verdict{Allowed: true, Rule: rule} }

func denied(format string, args ...any) Verdict {
	return Verdict{Reason: fmt.Sprintf(format, args...)}
}

// resolve decides whether a name may be looked up.
func (r *rules) resolve(g *guest, name string) Verdict {
	if found := g.grants(name); len(found) > 0 {
		return allowed(found[0].String())
	}
	if !g.filtersNames() {
		return allowed("mode " + string(g.mode))
	}
	return g.unknownName(name)
}

func (g *guest) unknownName(name string) Verdict {
	if g.mode == spec.EgressNone {
		return denied("VM %s has egress mode none, and nothing in its allow list is %s; ask the host's user to add `allow: [%s]`", g.Name, name, name)
	}
	return denied("VM %s has egress mode allowlist, and %s is not on its list; ask the host's user to add `names: [%s]`", g.Name, name, name)
}

// reach decides about an address and a port, which a name led to, or "" where
// the address was all that was given. Port 0 asks for any port. It does not ask
// whether the name has that address.
func (r *rules) reach(g *guest, name string, a netip.Addr, port uint16) Verdict {
	if v, never := r.neverReached(g, a); never {
		return v
	}
	if t, ok := g.net(a, port); ok {
		return allowed("allow: " + t.String())
	}
	public := r.public(a)
	if g.mode == spec.EgressOpen || public && g.mode == spec.EgressPublic {
		return allowed("mode " + string(g.mode))
	}
	found := g.grants(name)
	for _, m := range found {
		if m.opens(port) && (public || m.private() && !r.linkLocal.Contains(a)) {
			return allowed(m.String())
		}
	}
	return g.closed(name, found, a, port, public)
}

// neverReached knows what no rule opens.
func (r *rules) neverReached(g *guest, a netip.Addr) (v Verdict, never bool) {
	switch {
	case !a.Is4():
		return denied("VM %s has no IPv6, and %s is no IPv4 address", g.Name, a), true
	case within(r.never, a):
		return denied("%s is no address of another machine", a), true
	case a == r.policy.Gateway || r.own(a):
		return denied("%s is an address of the host itself; ask the host's user for `hostPorts`", a), true
	case r.policy.Subnet.Contains(a):
		return denied("%s is in the VMs' own subnet; ask the host's user for `guestToGuest`", a), true
	}
	return Verdict{}, false
}

// closed says why nothing opens an address and a port.
func (g *guest) closed(name string, found []grant, a netip.Addr, port uint16, public bool) Verdict {
	place := fmt.Sprintf("%s, port %d", a, port)
	if port == 0 {
		place = a.String()
	}
	switch {
	case !public && name != "":
		return denied("VM %s may not reach %s: it has the address %s, which is private or special; ask the host's user to add `allow: [%s]`", g.Name, name, place, name)
	case !public:
		return denied("VM %s has egress mode %s, and %s is private or special; ask the host's user to add `allow: [%s]`", g.Name, g.mode, place, target(a, port))
	case g.mode == spec.EgressNone:
		return denied("VM %s has egress mode none: %s is closed; ask the host's user to add `allow: [%s]`", g.Name, place, target(a, port))
	case name == "":
		return denied("VM %s has egress mode %s, which opens names and not addresses: %s; use a name that is allowed, or ask the host's user to add `allow: [%s]`",
			g.Name, g.mode, place, target(a, port))
	case len(found) > 0:
		return denied("VM %s may reach %s, but not its port %d; ask the host's user to add `names: [\"%s:%d\"]`", g.Name, name, port, name, port)
	}
	return g.unknownName(name)
}

func target(a netip.Addr, port uint16) string {
	if port == 0 {
		return a.String()
	}
	return netip.AddrPortFrom(a, port).String()
}
