package config

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"

	"bield/internal/spec"
)

const aliceKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILVSSM2XYbJUxJwmJ+4qcQGmxnLIAfk5HNZYkOVp8jF8 alice"

var errPermission = &fs.PathError{Op: "lstat", Path: "/root/hidden", Err: fs.ErrPermission}

// fakeHost is a machine of maps: alice called sudo.
type fakeHost struct {
	accounts []Account
	paths    map[string]PathInfo
	links    map[string]string
}

func newFakeHost() *fakeHost {
	alice, bob := spec.ID{UID: 1000, GID: 1000}, spec.ID{UID: 1001, GID: 100}
	h := &fakeHost{
		accounts: []Account{
			{Name: "root", Home: "/root"},
			{Name: "www-data", ID: spec.ID{UID: 33, GID: 33}, Home: "/var/www"},
			{Name: "alice", ID: alice, Home: "/home/alice"},
			{Name: "bob", ID: bob, Home: "/home/bob"},
		},
		paths: map[string]PathInfo{},
		links: map[string]string{},
	}
	root := spec.ID{}
	h.dirs(root, "/", "/etc/bield", "/home", "/srv", "/var", "/srv/rootowned", "/srv/data", "/nix/store", "/var/lib/bield", "/var/lib/bield/x", "/var/lib", "/dev/shm")
	h.dirs(alice, "/home/alice", "/home/alice/.claude", "/home/alice/.config", "/home/alice/.config/bield", "/home/alice/src",
		"/home/alice/src/app", "/home/alice/src/app/data", "/home/alice/src/my-project", "/home/alice/workspace/claude-home",
		"/home/alice/other/.claude", "/home/alice/a b,c", "/home/alice/secret")
	h.dirs(bob, "/home/bob", "/home/bob/src", "/home/bob/.claude")
	h.dirs(spec.ID{UID: 33, GID: 33}, "/srv/www")
	h.dirs(spec.ID{UID: 4242, GID: 4242}, "/srv/unknown")
	h.paths["/home/alice/file"] = PathInfo{ID: alice, Real: "/home/alice/file"}
	h.paths["/usr/share/keyrings/debian.gpg"] = PathInfo{Real: "/usr/share/keyrings/debian.gpg"}
	h.links["/home/alice/src/app/link"] = "/home/alice/secret"
	h.links["/home/alice/src/app/inner"] = "/home/alice/src/app/data"
	h.links["/home/alice/way"] = "/home/alice/src/app"
	h.links["/home/alice/state"] = "/var/lib/bield"
	h.links["/home/alice/bobs"] = "/home/bob/src"
	return h
}

func (h *fakeHost) dirs(owner spec.ID, paths ...string) {
	for _, p := range paths {
		h.paths[p] = PathInfo{ID: owner, Dir: true, Real: p}
	}
}

func (h *fakeHost) path(p string) (PathInfo, error) {
	if !path.IsAbs(p) {
		panic("asked of the relative path " + p)
	}
	var seen []string
	for head, tail := p, ""; head != "/"; head, tail = path.Dir(head), path.Join(path.Base(head), tail) {
		if to, ok := h.links[head]; ok {
			seen = append(seen, head)
			info, err := h.path(path.Join(to, tail))
			info.Links = append(seen, info.Links...)
			return info, err
		}
	}
	if strings.HasPrefix(p, "/root/") {
		return PathInfo{}, errPermission
	}
	info, ok := h.paths[p]
	if !ok {
		return PathInfo{}, &fs.PathError{Op: "lstat", Path: p, Err: fs.ErrNotExist}
	}
	return info, nil
}

func (h *fakeHost) account(match func(Account) bool) (Account, error) {
	i := slices.IndexFunc(h.accounts, match)
	if i < 0 {
		return Account{}, fmt.Errorf("look up: %w", ErrNoUser)
	}
	return h.accounts[i], nil
}

func (h *fakeHost) env() Env {
	return Env{
		Caller:    h.accounts[0],
		Sudo:      &h.accounts[2],
		MemoryMiB: 16384,
		ByName:    func(n string) (Account, error) { return h.account(func(a Account) bool { return a.Name == n }) },
		ByUID:     func(u uint32) (Account, error) { return h.account(func(a Account) bool { return a.UID == u }) },
		PublicKeys: func(home string) ([]string, error) {
			switch home {
			case "/home/alice":
				return []string{aliceKey}, nil
			case "/home/bob":
				return nil, nil
			}
			return nil, errors.New("no keys for " + home)
		},
		Path: h.path,
	}
}

func mustParse(t *testing.T, yaml string) spec.Host {
	t.Helper()
	h, err := Parse("bield.yaml", []byte(yaml), newFakeHost().env())
	if err != nil {
		t.Fatalf("Parse:\n%v", err)
	}
	return h
}

// errorOf is the whole text of what Parse says.
func errorOf(t *testing.T, yaml string) string {
	t.Helper()
	_, err := Parse("bield.yaml", []byte(yaml), newFakeHost().env())
	if err == nil {
		t.Fatalf("Parse accepted:\n%s", yaml)
	}
	if _, ok := errors.AsType[*FileError](err); !ok {
		t.Fatalf("error is a %T, want *FileError", err)
	}
	return err.Error()
}
