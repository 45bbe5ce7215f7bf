package config

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"bield/internal/spec"
)

// placed is a share and where the file asks for it.
type placed struct {
	share spec.Share
	at    location
	user  *account
}

// sourceAt is where the file names the folder: the workspace is one value.
func (p placed) sourceAt() location {
	if p.at[len(p.at)-1] == "workspace" {
		return p.at
	}
	return p.at.to("source")
}

func (r *resolver) noteShareOrigin(inSpec location, p placed) {
	r.origins[inSpec.key()] = p.at
	if p.user == nil {
		r.origins[inSpec.to("user").key()] = p.sourceAt()
	}
	if at := p.sourceAt(); at[len(at)-1] == "workspace" {
		for _, part := range []string{"source", "mountPoint", "tag", "user"} {
			r.origins[inSpec.to(part).key()] = at
		}
	}
}

// resolveShares puts the workspace first, then the host's shares, then the
// VM's, and a mount point before those below it.
func (r *resolver) resolveShares(vm location, f *vmFile, u spec.User) []spec.Share {
	home := r.home(r.file.User, f.User)
	var list []placed
	if f.Workspace != nil {
		list = append(list, placed{at: vm.to("workspace"), share: spec.Share{
			Tag: spec.WorkspaceTag, MountPoint: spec.WorkspaceMount, Source: r.expand(vm.to("workspace"), *f.Workspace, home)}})
	}
	if n := 1 + len(r.file.Shares) + len(f.Shares); n > spec.MaxShares {
		r.add(r.sharesAt(vm, f), "%d shares, the workspace among them: a VM has room for %d — remove some", n, spec.MaxShares)
	} else {
		for i, s := range r.file.Shares {
			list = append(list, r.place(location{"shares", strconv.Itoa(i)}, s, home))
		}
		for i, s := range f.Shares {
			list = append(list, r.place(vm.to("shares", strconv.Itoa(i)), s, home))
		}
	}
	list = slices.DeleteFunc(list, func(p placed) bool { return p.share.Source == "" })
	slices.SortStableFunc(list, func(a, b placed) int {
		return strings.Count(a.share.MountPoint, "/") - strings.Count(b.share.MountPoint, "/")
	})
	deriveTags(list)
	shares := make([]spec.Share, len(list))
	for i, p := range list {
		r.noteShareOrigin(vm.to("shares", strconv.Itoa(i)), p)
		shares[i] = r.served(p, u)
	}
	return shares
}

func (r *resolver) sharesAt(vm location, f *vmFile) location {
	if len(f.Shares) > 0 {
		return vm.to("shares")
	}
	return location{"shares"}
}

func (r *resolver) place(at location, f shareFile, home func() (string, error)) placed {
	p := placed{at: at, user: f.User}
	if f.Source == nil {
		r.add(at.to("source"), "is missing — name the host folder, for example ~/.claude")
		return p
	}
	p.share.Source = r.expand(at.to("source"), *f.Source, home)
	p.share.ReadOnly = or(f.ReadOnly, p.share.Source == nixStore)
	p.share.Tag = or(f.Tag, "")
	p.share.MountPoint = p.share.Source
	if f.Tag != nil && *f.Tag == "" {
		r.add(at.to("tag"), "is empty — write a short name, or leave the option away")
	}
	if f.MountPoint != nil {
		p.share.MountPoint = r.expand(at.to("mountPoint"), *f.MountPoint, home)
	}
	return p
}

// nixStore belongs to the host's root and is never a guest's to write: it is
// shared read-only unless the file says otherwise.
const nixStore = "/nix/store"

// deriveTags gives each share without a tag the last part of its source; where
// that is taken or cannot be, with a hash of what tells shares apart.
func deriveTags(list []placed) {
	uses := map[string]int{spec.RootTag: 1, spec.HostKeysTag: 1, spec.WorkspaceTag: 1, "": 1}
	for _, p := range list {
		if p.share.Tag == "" {
			uses[tagOf(p.share.Source)]++
		} else {
			uses[p.share.Tag]++
		}
	}
	for i := range list {
		s := &list[i].share
		if s.Tag != "" {
			continue
		}
		s.Tag = tagOf(s.Source)
		if uses[s.Tag] > 1 {
			sum := sha256.Sum256([]byte(s.Source + "\x00" + s.MountPoint))
			s.Tag = strings.TrimLeft(s.Tag+"-", "-") + hex.EncodeToString(sum[:4])
		}
	}
}

// tagOf leaves room for a hash in a tag.
func tagOf(source string) string {
	tag := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '.', r == '-':
			return r
		}
		return '-'
	}, path.Base(source))
	tag = strings.Trim(tag, ".-")
	return strings.TrimRight(tag[:min(len(tag), spec.MaxTagBytes-9)], ".-")
}

// served checks the folder and settles whom it is served as. What it says of
// the folder is what bieldd will insist on when it opens it: where it lies
// without symbolic links, whose it is, and as whom to open it.
func (r *resolver) served(p placed, u spec.User) spec.Share {
	s, source := p.share, p.sourceAt()
	if p.user != nil {
		s.User = r.shareUser(p.at.to("user"), *p.user)
	}
	info, err := r.look(s.Source)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.add(source, "%s does not exist — make the folder, or write another", brief(s.Source))
	case err != nil:
		r.add(source, "%v — check the path, or who may read it", err)
	case !info.Dir:
		r.add(source, "%s is no folder — share the folder it lies in", brief(s.Source))
	case p.user != nil:
	case info.UID == 0:
		s.User = r.rootShareUser(source, s, u)
	case len(info.Links) > 0 && info.UID != u.UID && u.UID != 0:
		r.othersFolder(source, s, info, u)
	case r.env.Caller.UID == 0:
		s.User = r.owner(source, info.ID)
	}
	if err != nil {
		return s
	}
	r.noteShared(source, s, info, u)
	s.Source = info.Real
	if r.env.Caller.UID == 0 { // others share what they can open, as themselves
		s.Owner = &info.UID
	}
	return s
}

// othersFolder refuses a folder of somebody else than the guest's user that a
// link leads to: the link may be that user's, and the folder is not theirs to
// share.
func (r *resolver) othersFolder(at location, s spec.Share, folder PathInfo, u spec.User) {
	owner := fmt.Sprintf("uid %d", folder.UID)
	if a, err := r.env.ByUID(folder.UID); err == nil {
		owner = brief(a.Name)
	}
	if !r.flagged[at.key()] {
		r.add(at, "%s leads by a link to %s, which belongs to %s and not to the guest's user %s — write %s itself",
			brief(s.Source), brief(folder.Real), owner, brief(u.Name), brief(folder.Real))
	}
}

// owner is the owner of a folder with their primary group: the folder's can be
// one that they are not in. A uid without an account has no other.
func (r *resolver) owner(at location, folder spec.ID) *spec.ID {
	id := folder
	a, err := r.env.ByUID(folder.UID)
	switch {
	case err == nil:
		id = a.ID
	case !errors.Is(err, ErrNoUser):
		r.add(at, "look up its owner, uid %d: %v — check that users can be looked up", folder.UID, err)
		return nil
	}
	if id.GID == 0 {
		r.add(at, "its owner, uid %d, would serve it in root's group — chown it to an ordinary user and group", id.UID)
		return nil
	}
	return &id
}

func (r *resolver) rootShareUser(at location, s spec.Share, u spec.User) *spec.ID {
	// A workspace has no `user` of its own: the VM's, named by the file, is meant.
	workspace := at[len(at)-1] == "workspace"
	if !s.ReadOnly && (!workspace || !u.Explicit) {
		instead := "chown it, set `readOnly: true`, or name the share's `user`"
		if workspace {
			instead = "chown it to the one who works there, or set `user`"
		}
		if !r.flagged[at.key()] {
			r.add(at, "%s belongs to root, and a guest would write there as root — %s", brief(s.Source), instead)
		}
		return nil
	}
	return &spec.ID{UID: u.UID, GID: u.GID}
}
