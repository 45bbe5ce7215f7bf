package config

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"bield/internal/spec"
)

const defaultShell = "/bin/zsh"

// mergeUser lets a VM's user stand over the host's, option by option; a VM that
// names another user takes nothing of the host's that belongs to the person.
func mergeUser(host, own *userFile) userFile {
	h, v := or(host, userFile{}), or(own, userFile{})
	if v.Name == nil && v.UID == nil {
		v.Name, v.UID = h.Name, h.UID
		if v.GID == nil {
			v.GID = h.GID
		}
		if v.Home == nil {
			v.Home = h.Home
		}
	}
	if v.Shell == nil {
		v.Shell = h.Shell
	}
	if v.AuthorizedKeys == nil {
		v.AuthorizedKeys = h.AuthorizedKeys
	}
	return v
}

// lookup asks for the host's account of the user that the file names. uid
// wins over name, as it says who owns what is shared.
func (r *resolver) lookup(u userFile) (Account, error) {
	err := ErrNoUser
	var a Account
	if u.UID != nil {
		a, err = r.env.ByUID(*u.UID)
	}
	if u.Name != nil && errors.Is(err, ErrNoUser) && spec.UserNameProblem(*u.Name) == "" {
		a, err = r.env.ByName(*u.Name)
	}
	return a, err
}

// home is what ~ means: the home of the user that the file names, if the host
// knows them, or else of the person at the machine.
func (r *resolver) home(host, own *userFile) func() (string, error) {
	return func() (string, error) {
		a, err := r.lookup(mergeUser(host, own))
		if errors.Is(err, ErrNoUser) {
			return r.env.person().Home, nil
		}
		return a.Home, err
	}
}

func (r *resolver) resolveUser(vm location, f *vmFile) spec.User {
	u := mergeUser(r.file.User, f.User)
	r.noteUserOrigins(vm, f, u)
	explicit := u.Name != nil || u.UID != nil
	a, ok := Account{}, false
	switch {
	case r.isUserBroken(vm):
	case explicit:
		a, ok = r.namedUser(vm, u)
	default:
		a, ok = r.defaultUser(vm, f)
	}
	if !ok {
		a = anybody()
	}
	user := r.fillUser(vm, u, a, ok)
	user.Explicit = explicit
	return user
}

// anybody stands in for a user whose fault is reported, so that the rest of
// what the file says of them is checked too.
func anybody() Account {
	return Account{Name: "agent", ID: spec.ID{UID: 1000, GID: 1000}, Home: "/home/agent"}
}

func (r *resolver) fillUser(vm location, u userFile, a Account, known bool) spec.User {
	user := spec.User{
		Name:  or(u.Name, a.Name),
		ID:    spec.ID{UID: or(u.UID, a.UID), GID: or(u.GID, a.GID)},
		Home:  or(u.Home, homeOf(u, a)),
		Shell: or(u.Shell, defaultShell),
	}
	switch {
	case u.AuthorizedKeys != nil:
		for _, k := range u.AuthorizedKeys {
			user.AuthorizedKeys = append(user.AuthorizedKeys, strings.TrimSpace(k))
		}
	case known:
		user.AuthorizedKeys = r.publicKeys(vm, a)
	}
	return user
}

// isUserBroken reports whether who the user is did not decode.
func (r *resolver) isUserBroken(vm location) bool {
	return slices.ContainsFunc([]location{{"user"}, vm.to("user")}, func(at location) bool {
		return r.isBroken(at.to("name")) || r.isBroken(at.to("uid"))
	})
}

// namedUser fills in what the host knows of a user that the file names.
func (r *resolver) namedUser(vm location, u userFile) (Account, bool) {
	if u.Name != nil {
		if m := spec.UserNameProblem(*u.Name); m != "" {
			r.add(r.originOf(vm.to("user", "name")), "%s", m)
			return anybody(), false
		}
	}
	a, err := r.lookup(u)
	switch {
	case err == nil:
	case !errors.Is(err, ErrNoUser):
		r.add(r.originOf(vm.to("user", "name")), "%v — check that users can be looked up", err)
		return a, false
	case u.Name == nil:
		r.add(r.originOf(vm.to("user", "uid")), "this host knows no user with the uid %d — write a `name` too", *u.UID)
		return a, false
	case u.UID == nil:
		r.add(r.originOf(vm.to("user", "name")), "this host knows no user %s — write a `uid` too", quote(*u.Name))
		return a, false
	default:
		a = Account{ID: spec.ID{UID: *u.UID, GID: *u.UID}}
	}
	return a, true
}

// homeOf is the account's home, unless the guest's user has another name.
func homeOf(u userFile, a Account) string {
	if u.Name != nil && *u.Name != a.Name {
		return "/home/" + *u.Name
	}
	return a.Home
}

// defaultUser is the owner of the workspace, or, where that is root, the
// person at the machine.
func (r *resolver) defaultUser(vm location, f *vmFile) (Account, bool) {
	at := vm.to("workspace")
	if f.Workspace == nil {
		return Account{}, false
	}
	path := r.expand(at, *f.Workspace, r.home(r.file.User, f.User))
	if path == "" {
		return Account{}, false
	}
	info, err := r.look(path)
	if err != nil {
		return Account{}, false // reported with the workspace's share
	}
	if info.UID != 0 {
		a, err := r.env.ByUID(info.UID)
		if err != nil {
			r.add(at, "its owner, uid %d, cannot be the guest's user: %v — set `user` with a name and a uid", info.UID, err)
		}
		return a, err == nil
	}
	if p := r.env.person(); p.UID != 0 {
		return p, true
	}
	r.add(at, "%s belongs to root, who cannot be the guest's user — chown it to the one who works there, or set `user`", brief(path))
	return Account{}, false
}

// publicKeys are those of the user's account on this host, or of the person
// at the machine where the user has none here.
func (r *resolver) publicKeys(vm location, a Account) []string {
	home := a.Home
	if a.Name == "" {
		home = r.env.person().Home
	}
	keys, err := r.env.PublicKeys(home)
	if err != nil {
		at := vm.to("user", "authorizedKeys")
		if o := r.originOf(at); o[len(o)-1] != "workspace" {
			at = o
		}
		r.add(at, "read the public keys: %v — list the keys here", err)
	}
	return keys
}

// noteUserOrigins says where each part of a VM's user came from.
func (r *resolver) noteUserOrigins(vm location, f *vmFile, u userFile) {
	own, host := or(f.User, userFile{}), or(r.file.User, userFile{})
	note := func(name string, inOwn, inHost bool) {
		from := vm.to("workspace")
		switch {
		case inOwn:
			from = vm.to("user", name)
		case inHost:
			from = location{"user", name}
		case f.User != nil:
			from = vm.to("user", name)
		case r.file.User != nil:
			from = location{"user", name}
		}
		r.origins[vm.to("user", name).key()] = from
	}
	note("name", own.Name != nil, host.Name != nil && u.Name == host.Name)
	note("uid", own.UID != nil, host.UID != nil && u.UID == host.UID)
	note("gid", own.GID != nil, host.GID != nil && u.GID == host.GID)
	note("home", own.Home != nil, host.Home != nil && u.Home == host.Home)
	note("shell", own.Shell != nil, host.Shell != nil && u.Shell == host.Shell)
	note("authorizedKeys", own.AuthorizedKeys != nil, host.AuthorizedKeys != nil)
}

// shareUser looks up the user that a share names.
func (r *resolver) shareUser(at location, who account) *spec.ID {
	if isDecimal(string(who)) {
		n, err := strconv.ParseUint(string(who), 10, 32)
		if err != nil {
			r.add(at, "%s is no uid — write for example 1000", brief(string(who)))
			return nil
		}
		a, err := r.env.ByUID(uint32(n))
		if errors.Is(err, ErrNoUser) {
			return &spec.ID{UID: uint32(n), GID: uint32(n)}
		}
		return r.found(at, a, err)
	}
	if m := spec.UserNameProblem(string(who)); m != "" && who != "root" {
		r.add(at, "%s", m)
		return nil
	}
	a, err := r.env.ByName(string(who))
	return r.found(at, a, err)
}

func (r *resolver) found(at location, a Account, err error) *spec.ID {
	if err != nil {
		r.add(at, "%v — name a user of the host, or write a uid", err)
		return nil
	}
	return &spec.ID{UID: a.UID, GID: a.GID}
}
