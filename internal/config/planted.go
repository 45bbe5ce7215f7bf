package config

import (
	"path"
	"path/filepath"
	"strconv"
)

// checkPlanted refuses shares by which a guest could change what bield does
// later: its file, its state, or where a link leads that bield follows.
func (r *resolver) checkPlanted() {
	shared, writable := map[string]bool{}, map[string]bool{}
	sources := r.sources()
	for _, s := range sources {
		shared[s.real] = true
		writable[s.real] = writable[s.real] || !s.readOnly
	}
	for _, s := range sources {
		r.checkState(s)
		r.checkPlaces(s)
		for _, way := range r.foundBy {
			if within(way, s.real) {
				r.add(s.at, "%s holds this configuration file (%s): a guest could change it — move the file, or share another folder", brief(s.path), brief(way))
				break
			}
		}
		r.checkLinks(s, writable)
	}
	r.checkStateLinks(writable)
}

type source struct {
	at         location
	path, real string
	links      []string
	readOnly   bool
	// homes are those of who works in the guest and of the folder's owner: a
	// later call of theirs reads a file there.
	homes []string
}

// sources lists each folder that is shared and is there, once for each place
// in the file.
func (r *resolver) sources() []source {
	var list []source
	seen := map[string]bool{}
	for _, v := range r.host.VMs {
		for i, s := range v.Shares {
			at := r.originOf(location{"vms", v.Name, "shares", strconv.Itoa(i), "source"})
			a, known := r.paths[s.Source]
			key := at.to(s.Source).key() // ~ differs from VM to VM
			if !known || a.err != nil || seen[key] {
				continue
			}
			seen[key] = true
			homes := []string{v.User.Home}
			if account, err := r.env.ByUID(a.info.UID); err == nil {
				homes = append(homes, account.Home)
			}
			list = append(list, source{at, s.Source, a.info.Real, a.info.Links, s.ReadOnly, homes})
		}
	}
	return list
}

func (r *resolver) checkState(s source) {
	state, _ := r.real(r.host.StateDir)
	if r.host.StateDir == "" || r.flagged[s.at.key()] {
		return
	}
	if within(s.real, state) || within(state, s.real) {
		r.add(s.at, "%s and the state folder %s lie in each other: a guest would see bield's keys — share another folder", brief(s.path), brief(r.host.StateDir))
	}
}

// checkPlaces guards where the file is looked for, also while none is there.
func (r *resolver) checkPlaces(s source) {
	if s.readOnly {
		return
	}
	places := []string{filepath.Dir(SystemFile)}
	for _, home := range append(s.homes, r.env.Caller.Home, r.env.person().Home) {
		if filepath.IsAbs(home) {
			places = append(places, filepath.Dir(UserFile(home)))
		}
	}
	for _, p := range places {
		if target, _ := r.real(p); within(target, s.real) || within(s.real, target) {
			r.add(s.at, "%s would let a guest write bield's configuration in %s — share another folder, or set `readOnly: true`", brief(s.path), brief(p))
			return
		}
	}
}

// checkLinks refuses a source that is reached by a link inside a folder that
// guests write, unless it stays in that folder.
func (r *resolver) checkLinks(s source, writable map[string]bool) {
	for _, link := range s.links {
		if dir := holder(path.Dir(link), writable); dir != "" && !within(s.real, dir) {
			r.add(s.at, "%s is reached by the link %s, which a guest can change — write %s", brief(s.path), brief(link), brief(s.real))
			return
		}
	}
}

// checkStateLinks does the same for the state folder.
func (r *resolver) checkStateLinks(writable map[string]bool) {
	target, links := r.real(r.host.StateDir)
	for _, link := range links {
		if holder(path.Dir(link), writable) != "" {
			r.add(location{"stateDir"}, "is reached by the link %s, which a guest can change — write %s", brief(link), brief(target))
			return
		}
	}
}

// holder is the nearest folder of the set that p is or lies in, or "".
func holder(p string, set map[string]bool) string {
	for {
		if set[p] {
			return p
		}
		if p == "/" || p == "." {
			return ""
		}
		p = path.Dir(p)
	}
}
