package config

import (
	"strconv"
	"strings"

	"bield/internal/spec"
)

// resolveOpenings settles what the host takes from guests.
func (r *resolver) resolveOpenings() {
	f := r.file
	r.host.TrustBridge, r.host.GuestToGuest = or(f.TrustBridge, false), or(f.GuestToGuest, false)
	for i, text := range f.HostPorts {
		p, err := spec.ParseHostPort(text)
		if err != nil {
			r.add(location{"hostPorts", strconv.Itoa(i)}, "%v", err)
			continue
		}
		r.host.HostPorts = append(r.host.HostPorts, p)
	}
}

// resolveEgress takes each option of a VM's own, or else the host's.
func (r *resolver) resolveEgress(at location, f *egressFile) spec.Egress {
	own, host := or(f, egressFile{}), or(r.file.Egress, egressFile{})
	of := func(name string, inherited bool) location {
		if inherited {
			r.origins[at.to(name).key()] = location{"egress", name}
		}
		return r.originOf(at.to(name))
	}
	of("mode", own.Mode == nil && host.Mode != nil)
	e := spec.Egress{Mode: spec.EgressMode(or(own.Mode, or(host.Mode, string(spec.EgressPublic))))}
	if own.Names != nil && e.Mode != spec.EgressAllowlist {
		r.add(at.to("names"), "names count with the mode allowlist alone — write `mode: allowlist`, or put what is private into `allow`")
	}
	e.Names = r.targets(of("names", own.Names == nil), firstList(own.Names, host.Names), r.preset)
	e.Allow = r.targets(of("allow", own.Allow == nil), firstList(own.Allow, host.Allow), nil)
	return e
}

func firstList(lists ...[]string) []string {
	for _, list := range lists {
		if list != nil {
			return list
		}
	}
	return nil
}

// preset expands what has no dot in a list of names.
func (r *resolver) preset(text string) ([]spec.Target, bool, error) {
	if strings.ContainsAny(text, ".:/*") || r.env.Preset == nil {
		return nil, false, nil
	}
	found, err := r.env.Preset(text)
	return found, true, err
}

// targets reads the list that stands at a place, once.
func (r *resolver) targets(at location, texts []string, preset func(string) ([]spec.Target, bool, error)) []spec.Target {
	if known, ok := r.lists[at.key()]; ok {
		return known
	}
	var all []spec.Target
	for i, text := range texts {
		found, known, err := []spec.Target(nil), false, error(nil)
		if preset != nil {
			found, known, err = preset(text)
		}
		if !known {
			found = make([]spec.Target, 1)
			found[0], err = spec.ParseTarget(text)
		}
		if err != nil {
			r.add(at.to(strconv.Itoa(i)), "%v", err)
			continue
		}
		all = append(all, found...)
	}
	r.lists[at.key()] = all
	return all
}
