package config

import (
	"path"
	"path/filepath"

	"bield/internal/spec"
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

// shared is a folder that is there and that the file shares.
type shared struct {
	at         location
	path, real string // as the file has it, and without links
	links      []string
	readOnly   bool
	// homes are those of who works in the guest and of the folder's owner: a
	// later call of theirs reads a file there.
	homes []string
}

// noteShared remembers a folder for what is checked when all of them are known.
func (r *resolver) noteShared(at location, s spec.Share, info PathInfo, u spec.User) {
	homes := []string{u.Home}
	if account, err := r.env.ByUID(info.UID); err == nil {
		homes = append(homes, account.Home)
	}
	r.shared = append(r.shared, shared{at, s.Source, info.Real, info.Links, s.ReadOnly, homes})
}

// sources lists what is shared, once for each place in the file.
func (r *resolver) sources() []shared {
	var list []shared
	seen := map[string]bool{}
	for _, s := range r.shared {
		key := s.at.to(s.path).key() // ~ differs from VM to VM
		if !seen[key] {
			seen[key] = true
			list = append(list, s)
		}
	}
	return list
}

func (r *resolver) checkState(s shared) {
	state, _ := r.real(r.host.StateDir)
	if r.host.StateDir == "" || r.flagged[s.at.key()] {
		return
	}
	if within(s.real, state) || within(state, s.real) {
		r.add(s.at, "%s and the state folder %s lie in each other: a guest would see bield's keys — share another folder", brief(s.path), brief(r.host.StateDir))
	}
}

// checkPlaces guards where the file is looked for, also while none is there.
func (r *resolver) checkPlaces(s shared) {
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
func (r *resolver) checkLinks(s shared, writable map[string]bool) {
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
