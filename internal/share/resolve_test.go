package share

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bield/internal/spec"
)

func TestResolve(t *testing.T) {
	needRoot(t)
	top := publicDir(t)
	folder := func(name string, uid int, mode os.FileMode) string {
		path := filepath.Join(top, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		chown(t, path, uid, uid)
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	own, open, roots := folder("own", owner, 0o700), folder("open", owner, 0o755), folder("roots", 0, 0o755)
	closed, rootsGroup := folder("closed", 0, 0o700), folder("rootsgroup", owner, 0o755)
	chown(t, rootsGroup, owner, 0)
	link := filepath.Join(top, "link")
	if err := os.Symlink(own, link); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(top, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	uid := func(n uint32) *uint32 { return &n }
	id := func(n uint32) spec.ID { return spec.ID{UID: n, GID: n} }
	user := func(n uint32) *spec.ID { u := id(n); return &u }
	root, me, other, vm := id(0), id(owner), id(vmm), spec.User{ID: id(77777)}
	explicit, rootVM := spec.User{ID: id(77777), Explicit: true}, spec.User{}
	tests := []struct {
		name   string
		share  spec.Share
		caller spec.ID
		vm     spec.User
		want   uint32 // 0: an error
		text   string
	}{
		{"root: the owner", spec.Share{Source: own}, root, vm, owner, ""},
		{"root: the owner behind a link", spec.Share{Source: link}, root, vm, 0, "a symbolic link leads there"},
		{"root: below a link", spec.Share{Source: link + "/below"}, root, vm, 0, "a symbolic link leads there"},
		{"root: by /proc", spec.Share{Source: "/proc/self/cwd"}, root, vm, 0, "a symbolic link leads there"},
		{"root: of /proc", spec.Share{Source: "/proc/sys/kernel", ReadOnly: true}, root, vm, 0, "is the kernel's"},
		{"root: of /sys", spec.Share{Source: "/sys/kernel", ReadOnly: true, User: user(owner)}, root, vm, 0, "is the kernel's"},
		{"root: the owner it had", spec.Share{Source: own, User: user(owner), Owner: uid(owner)}, root, vm, owner, ""},
		{"root: another owner than it had", spec.Share{Source: open, User: user(vmm), Owner: uid(vmm)}, root, vm, 0, "belonged to uid 54333"},
		{"root: root's, with its owner", spec.Share{Source: roots, User: user(owner), Owner: uid(0)}, root, vm, owner, ""},
		{"root: user in root's group", spec.Share{Source: own, User: &spec.ID{UID: owner}}, root, vm, 0, "nothing serves a guest as root"},
		{"root: owner in root's group", spec.Share{Source: rootsGroup}, root, vm, 0, "root's group"},
		{"in root's group", spec.Share{Source: open}, spec.ID{UID: owner}, vm, 0, "root's group"},
		{"root: root's own", spec.Share{Source: roots}, root, vm, 0, "set `readOnly: true`, or name a `user:`"},
		{"root: root's own, read-only", spec.Share{Source: roots, ReadOnly: true}, root, vm, 77777, ""},
		{"root: root's own, read-only, guest of root", spec.Share{Source: roots, ReadOnly: true}, root, rootVM, nobody, ""},
		{"root: root's own, user named for the VM alone", spec.Share{Source: roots}, root, explicit, 0, "or name a `user:`"},
		{"root: user named", spec.Share{Source: roots, User: user(owner)}, root, vm, owner, ""},
		{"root: user root", spec.Share{Source: own, User: user(0)}, root, vm, 0, "nothing serves a guest as root"},
		{"root: read-only but closed", spec.Share{Source: closed, ReadOnly: true}, root, vm, 0, "may not open it"},
		{"root: user who may not", spec.Share{Source: own, User: user(vmm)}, root, vm, 0, "permission denied"},
		{"own", spec.Share{Source: own}, me, vm, owner, ""},
		{"own, named", spec.Share{Source: own, User: user(owner)}, me, vm, owner, ""},
		{"another's, open", spec.Share{Source: open}, other, vm, vmm, ""},
		{"root's, open", spec.Share{Source: roots}, other, vm, vmm, ""},
		{"another's, closed", spec.Share{Source: own}, other, vm, 0, "only what you can open yourself"},
		{"another's, behind a link", spec.Share{Source: link}, other, vm, 0, "a symbolic link leads there"},
		{"as somebody else", spec.Share{Source: open, User: user(owner)}, other, vm, 0, "only root may serve"},
		{"as root", spec.Share{Source: roots, User: user(0)}, other, vm, 0, "only root may serve"},
		{"missing", spec.Share{Source: top + "/no"}, root, vm, 0, "no such file"},
		{"a file", spec.Share{Source: file}, root, vm, 0, "not a directory"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.share.Tag = "tag"
			source, err := Resolve(test.share, test.caller, test.vm)
			if test.want == 0 {
				if err == nil || !strings.Contains(err.Error(), test.text) || !strings.HasPrefix(err.Error(), "share tag: ") {
					t.Fatalf("%+v, error %v, want %q in it", source.ServeAs, err, test.text)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer source.Close()
			if source.ServeAs != id(test.want) {
				t.Errorf("served as %+v, want %d", source.ServeAs, test.want)
			}
		})
	}
}

// TestOpenAsLeavesTheProcessAlone runs into trouble if credentials of one thread
// leak into others.
func TestOpenAsLeavesTheProcessAlone(t *testing.T) {
	needRoot(t)
	dir := filepath.Join(publicDir(t), "roots")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if f, err := openAs(dir, spec.ID{UID: owner, GID: ownersGroup}, nil); err == nil {
			f.Close()
			t.Fatal("opened root's folder as another")
		}
		f, err := openFolder(dir)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
}
