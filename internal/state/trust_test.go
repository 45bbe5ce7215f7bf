package state

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const somebody, somebodyElse = 54331, 54332

// closed is a temporary folder that only its owner writes, whatever the umask.
func closed(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "closed")
	folder(t, dir, os.Getuid(), 0o755)
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func folder(t *testing.T, path string, uid int, mode os.FileMode) {
	t.Helper()
	must(t, os.Mkdir(path, 0o700))
	must(t, os.Chmod(path, mode))
	if uid != os.Getuid() {
		must(t, os.Lchown(path, uid, uid))
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("BIELD_TEST_REQUIRE") == "1" {
		t.Fatal("needs root to give folders away")
	}
	t.Skip("needs root to give folders away")
}

// TestMakeRefusesWhatOthersCouldExchange tries it for each kind of folder that
// bield keeps for itself, below and above it.
func TestMakeRefusesWhatOthersCouldExchange(t *testing.T) {
	const asOthers, others = "may be written by others", "belongs to uid 54331"
	for _, test := range []struct {
		name    string
		root    bool
		prepare func(t *testing.T, base string) string
		want    string
	}{
		{"nothing there yet", false, func(_ *testing.T, base string) string { return base + "/a/b/state" }, ""},
		{"a folder of its own", false, func(t *testing.T, base string) string {
			folder(t, base+"/state", os.Getuid(), 0o711)
			return base + "/state"
		}, ""},
		{"in a sticky folder", false, func(t *testing.T, base string) string {
			folder(t, base+"/tmp", os.Getuid(), 0o777|os.ModeSticky)
			return base + "/tmp/state"
		}, ""},
		{"behind an own link", false, func(t *testing.T, base string) string {
			folder(t, base+"/real", os.Getuid(), 0o755)
			must(t, os.Symlink("real/../real", base+"/link"))
			return base + "/link/state"
		}, ""},
		{"in a folder that all write", false, func(t *testing.T, base string) string {
			folder(t, base+"/open", os.Getuid(), 0o777)
			return base + "/open/state"
		}, asOthers},
		{"far below a folder that its group writes", false, func(t *testing.T, base string) string {
			folder(t, base+"/open", os.Getuid(), 0o775)
			return base + "/open/a/b/state"
		}, asOthers},
		{"itself open, though sticky", false, func(t *testing.T, base string) string {
			folder(t, base+"/state", os.Getuid(), 0o777|os.ModeSticky)
			return base + "/state"
		}, asOthers},
		{"a link in its place", false, func(t *testing.T, base string) string {
			must(t, os.Symlink(base, base+"/state"))
			return base + "/state"
		}, "is no folder"},
		{"below a file", false, func(t *testing.T, base string) string {
			must(t, os.WriteFile(base+"/file", nil, 0o644))
			return base + "/file/state"
		}, "is no folder"},
		{"a ring of links", false, func(t *testing.T, base string) string {
			must(t, os.Symlink("ring", base+"/ring"))
			return base + "/ring/state"
		}, "too many levels"},
		{"in somebody's folder", true, func(t *testing.T, base string) string {
			folder(t, base+"/home", somebody, 0o755)
			return base + "/home/state"
		}, others},
		{"somebody's own", true, func(t *testing.T, base string) string {
			folder(t, base+"/tmp", 0, 0o777|os.ModeSticky)
			folder(t, base+"/tmp/state", somebody, 0o755)
			return base + "/tmp/state"
		}, others},
		{"behind somebody's link", true, func(t *testing.T, base string) string {
			folder(t, base+"/tmp", 0, 0o777|os.ModeSticky)
			must(t, os.Symlink(base, base+"/tmp/link"))
			must(t, os.Lchown(base+"/tmp/link", somebody, somebody))
			return base + "/tmp/link/state"
		}, others},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.root {
				needRoot(t)
			}
			for _, keep := range []func(string) error{
				func(dir string) error { return Folder{dir}.Make() },
				func(dir string) error { return Run{dir}.Make() },
				func(dir string) error { return Cache{dir}.Make() },
			} {
				err := keep(test.prepare(t, closed(t)))
				if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
					t.Errorf("%v, want %q in it", err, test.want)
				}
			}
			if os.Geteuid() == 0 {
				examine(t, test.prepare(t, closed(t)), test.want)
			}
		})
	}
}

// examine holds Examine to the same answer as making the folder, and to making
// nothing.
func examine(t *testing.T, path, want string) {
	t.Helper()
	_, before := os.Lstat(path)
	err := Examine(path)
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("examined: %v, want %q in it", err, want)
	}
	if _, after := os.Lstat(path); (before == nil) != (after == nil) {
		t.Errorf("examining made or removed %s: %v, %v", path, before, after)
	}
}

// TestExamineIsForRoot: what the caller owns is not good enough for the daemon.
func TestExamineIsForRoot(t *testing.T) {
	needRoot(t)
	base := closed(t)
	folder(t, base+"/mine", somebody, 0o755)
	if err := Examine(base + "/mine"); err == nil || !strings.Contains(err.Error(), "belongs to uid 54331") {
		t.Errorf("somebody's: %v", err)
	}
	if err := Examine(base + "/mine/below"); err == nil || !strings.Contains(err.Error(), "belongs to uid 54331") {
		t.Errorf("in somebody's: %v", err)
	}
}

// TestMakeChecksWhatItFinds plants what bield would keep its own in.
func TestMakeChecksWhatItFinds(t *testing.T) {
	for _, planted := range []string{"_bield", "_bield/keys", "_bield/console"} {
		state := filepath.Join(closed(t), "state")
		must(t, Folder{state}.Make())
		must(t, os.Chmod(filepath.Join(state, planted), 0o777))
		err := Folder{state}.Make()
		if err == nil || !strings.Contains(err.Error(), filepath.Join(state, planted)) || !strings.Contains(err.Error(), "chmod go-w") {
			t.Errorf("%s is open: %v", planted, err)
		}
		if os.Geteuid() != 0 {
			continue
		}
		must(t, os.Chmod(filepath.Join(state, planted), 0o755))
		must(t, os.Chown(filepath.Join(state, planted), somebody, somebody))
		if err := (Folder{state}).Make(); err == nil || !strings.Contains(err.Error(), "chown it to root") {
			t.Errorf("%s is somebody's: %v", planted, err)
		}
	}
	for _, planted := range []string{"records", "vms"} {
		run := filepath.Join(closed(t), "run")
		must(t, Run{run}.Make())
		must(t, os.Chmod(filepath.Join(run, planted), 0o775))
		if err := (Run{run}).Make(); err == nil || !strings.Contains(err.Error(), "chmod go-w") {
			t.Errorf("%s is open: %v", planted, err)
		}
	}
}

func TestMakeSetsModes(t *testing.T) {
	state := filepath.Join(closed(t), "state")
	for range 2 {
		must(t, Folder{state}.Make())
	}
	for path, mode := range map[string]os.FileMode{"": 0o755, "_bield": 0o711, "_bield/keys": 0o711, "_bield/console": 0o700} {
		info, err := os.Lstat(filepath.Join(state, path))
		if err != nil || info.Mode() != os.ModeDir|mode {
			t.Errorf("%q: %v %v", path, info, err)
		}
	}
}
