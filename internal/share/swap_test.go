package share

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bield/internal/spec"
)

// TestSwappedForALink: alice's folder is shared by root. She puts a link to bob's
// closed folder in its place, again and again.
func TestSwappedForALink(t *testing.T) {
	needRoot(t)
	const alice, bob = owner, vmm
	top := publicDir(t)
	home, private := filepath.Join(top, "alice"), filepath.Join(top, "private")
	work, link := filepath.Join(home, "work"), filepath.Join(home, "link")
	for path, uid := range map[string]int{home: alice, private: bob} {
		makeFor(t, path, uid, 0o700)
	}
	makeFor(t, work, alice, 0o700)
	makeFor(t, filepath.Join(private, "inner"), bob, 0o755)
	if err := os.Symlink(private, link); err != nil {
		t.Fatal(err)
	}
	stop := exchange(t, work, link)
	defer stop()
	id := spec.ID{UID: alice, GID: alice}
	opened := 0
	for range 2000 {
		for _, s := range []spec.Share{{Source: work}, {Source: work, User: &id}, {Source: work + "/inner"}} {
			source, err := Resolve(s, spec.ID{}, spec.User{ID: id})
			if err != nil {
				continue
			}
			opened++
			var st unix.Stat_t
			if err := unix.Fstat(int(source.Dir.Fd()), &st); err != nil || st.Uid != alice || source.ServeAs != id {
				t.Fatalf("the folder of uid %d (%v) is served as %+v", st.Uid, err, source.ServeAs)
			}
			source.Close()
		}
	}
	if opened == 0 || opened == 4000 {
		t.Errorf("the exchange was not seen: %d folders opened", opened)
	}
}

func makeFor(t *testing.T, path string, uid int, mode os.FileMode) {
	t.Helper()
	if err := os.Mkdir(path, mode); err != nil {
		t.Fatal(err)
	}
	chown(t, path, uid, uid)
}

// exchange lets two names change places until stop is called.
func exchange(t *testing.T, a, b string) (stop func()) {
	t.Helper()
	ask, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ask:
				return
			default:
				if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
					t.Errorf("exchange: %v", err)
					return
				}
			}
		}
	}()
	return func() { close(ask); <-done }
}

// TestDescriptorsOfTheDaemon: a link of a user's to /proc/self/fd leads to what
// the daemon has open, and would open it without asking who wants it.
func TestDescriptorsOfTheDaemon(t *testing.T) {
	needRoot(t)
	top := publicDir(t)
	closed, inner := filepath.Join(top, "closed"), filepath.Join(top, "closed", "inner")
	makeFor(t, closed, 0, 0o700)
	makeFor(t, inner, 0, 0o755)
	dir, err := os.Open(inner)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	magic, link := fmt.Sprintf("/proc/self/fd/%d", dir.Fd()), filepath.Join(top, "link")
	if err := os.Symlink(magic, link); err != nil {
		t.Fatal(err)
	}
	me := spec.ID{UID: owner, GID: ownersGroup}
	for _, path := range []string{magic, link} {
		for _, caller := range []spec.ID{{}, me} {
			source, err := Resolve(spec.Share{Source: path, ReadOnly: true}, caller, spec.User{ID: me})
			if err == nil {
				source.Close()
				t.Errorf("%s was opened for uid %d", path, caller.UID)
			}
		}
	}
	for _, path := range []string{magic, filepath.Join(magic, ".")} {
		if f, err := Open(path); err == nil {
			f.Close()
			t.Errorf("Open followed %s", path)
		}
	}
}

// TestAccessIsOfTheFolder: who serves gets the folder open, and need not be able
// to come to it by its path unless they are who opens it.
func TestAccessIsOfTheFolder(t *testing.T) {
	needRoot(t)
	const group = 54340
	top := publicDir(t)
	team := filepath.Join(top, "team")
	work := filepath.Join(team, "work")
	makeFor(t, team, 0, 0o750)
	chown(t, team, 0, group)
	makeFor(t, work, owner, 0o700)
	id := spec.ID{UID: owner, GID: owner}
	source, err := Resolve(spec.Share{Source: work}, spec.ID{}, spec.User{})
	if err != nil || source.ServeAs != id {
		t.Fatalf("%+v %v", source.ServeAs, err)
	}
	source.Close()
	if _, err := Resolve(spec.Share{Source: work, User: &id}, spec.ID{}, spec.User{}); err == nil || !strings.Contains(err.Error(), "may not open it") {
		t.Errorf("by who may not come there: %v", err)
	}
	if _, err := openAs(work, id, []uint32{group + 1}); err == nil {
		t.Error("opened in another group")
	}
	dir, err := openAs(work, id, []uint32{group + 1, group})
	if err != nil {
		t.Fatalf("in the team's group: %v", err)
	}
	defer dir.Close()
	if f, err := reopenAs(dir, spec.ID{UID: vmm, GID: group}); err == nil {
		f.Close()
		t.Error("somebody else opened the folder by its handle")
	}
}
