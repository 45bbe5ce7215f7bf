package image

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"bield/internal/state"
)

// damages are what cleaning programs and people do to a cache.
func damages() map[string]func(img Image) error {
	return map[string]func(img Image) error{
		"no kernel":         func(img Image) error { return os.Remove(img.Kernel()) },
		"no modules":        func(img Image) error { return os.Remove(img.Modules()) },
		"no root":           func(img Image) error { return os.RemoveAll(img.Root()) },
		"no tree":           func(img Image) error { return os.RemoveAll(filepath.Dir(img.Root())) },
		"no manifest":       func(img Image) error { return os.Remove(filepath.Join(img.dir, "manifest.json")) },
		"half a manifest":   func(img Image) error { return os.Truncate(filepath.Join(img.dir, "manifest.json"), 20) },
		"a file as tree":    func(img Image) error { return replace(filepath.Dir(img.Root())) },
		"a file as root":    func(img Image) error { return replace(img.Root()) },
		"a folder as image": func(img Image) error { return errors.Join(os.Remove(img.Kernel()), os.Mkdir(img.Kernel(), 0o755)) },
	}
}

func replace(path string) error {
	return errors.Join(os.RemoveAll(path), os.WriteFile(path, nil, 0o644))
}

func TestDamagedImageIsBuiltAgain(t *testing.T) {
	w := newWorkshop(t, goodBuild)
	for name, damage := range damages() {
		img, err := w.store.Build(t.Context(), w.in, nil)
		if err != nil {
			t.Fatalf("before %s: %v", name, err)
		}
		if err := damage(img); err != nil {
			t.Fatal(err)
		}
		if _, err := w.store.Find(img.Digest); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: found: %v", name, err)
		}
		img, err = w.store.Build(t.Context(), w.in, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(img.Root(), "etc/made")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if left := w.rubbish(t); len(left) != 0 {
			t.Errorf("%s: left behind: %v", name, left)
		}
	}
}

// TestPruneSparesWhatIsWanted: a VM may run from a damaged image.
func TestPruneSparesWhatIsWanted(t *testing.T) {
	s := Store{Dir: filepath.Join(t.TempDir(), "images")}
	fill(t, s, one, two)
	if err := errors.Join(os.Remove(Image{dir: s.path(one)}.Kernel()), os.Remove(Image{dir: s.path(two)}.Kernel())); err != nil {
		t.Fatal(err)
	}
	done, err := s.Prune(t.Context(), func(d string) bool { return d == one })
	if err != nil || done.Leftovers != 1 {
		t.Errorf("%+v, %v", done, err)
	}
	if _, err := os.Stat(filepath.Join(s.path(one), "tree/rootfs/etc/file")); err != nil {
		t.Error(err)
	}
}

func TestPruneLogsAndLocks(t *testing.T) {
	s := Store{Dir: filepath.Join(t.TempDir(), "images")}
	fill(t, s, one)
	old, fresh, busy, gone := strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", 64), strings.Repeat("d", 64)
	for _, digest := range []string{one, old, fresh, busy} {
		writeFiles(t, s.Dir, map[string]string{"logs/" + digest + ".log": "", "locks/" + digest: ""})
		age(t, s.logPath(digest), logRest+time.Hour)
	}
	age(t, s.logPath(fresh), logRest-time.Hour)
	writeFiles(t, s.Dir, map[string]string{"locks/" + gone: "", "locks/note": "", "logs/note": ""})
	lock, err := s.tryLock(busy)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	done, err := s.Prune(t.Context(), func(string) bool { return true })
	if err != nil || done.Leftovers != 0 {
		t.Errorf("%+v, %v", done, err)
	}
	for folder, want := range map[string][]string{
		"logs": {fresh + ".log", busy + ".log", "note"}, "locks": {one, busy, "note"},
	} {
		var names []string
		entries, _ := os.ReadDir(filepath.Join(s.Dir, folder))
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if !slices.Equal(names, want) {
			t.Errorf("%s: left %v", folder, names)
		}
	}
}

// TestLockWithoutName: who gets a lock whose file Prune has removed meanwhile
// must not go on beside one who made the file anew.
func TestLockWithoutName(t *testing.T) {
	s := Store{Dir: filepath.Join(t.TempDir(), "images")}
	taken := 0
	lock, err := s.lastingLock(one, func(path string) (*os.File, error) {
		lock, err := state.Lock(path)
		if taken++; taken == 1 {
			err = errors.Join(err, s.pruneLock(one))
		}
		return lock, err
	})
	if err != nil || taken != 2 {
		t.Fatalf("taken %d times, %v", taken, err)
	}
	defer lock.Close()
	if _, err := s.tryLock(one); !errors.Is(err, errBusy) {
		t.Errorf("two hold the lock: %v", err)
	}
}

// TestSweep plants what a process leaves that dies in the middle.
func TestSweep(t *testing.T) {
	w := newWorkshop(t, goodBuild)
	img, err := w.store.Build(t.Context(), w.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	busy := strings.Repeat("a", 64)
	held, err := w.store.tryLock(busy)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	goes := []string{
		filepath.Join(w.store.Dir, tmpPrefix(img.Digest)+"1", "tree"), filepath.Join(w.store.Dir, tmpPrefix(strings.Repeat("b", 64))+"2"),
		img.unfinishedDisk(), img.unfinishedInitrd(),
	}
	stays := []string{
		filepath.Join(w.store.Dir, tmpPrefix(busy)+"3"), filepath.Join(w.store.Dir, ".tmp-else"), img.Kernel(), img.Root(),
	}
	for _, path := range append(slices.Clone(goes), stays...) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(path); err != nil {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.store.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	for _, path := range stays {
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	}
	for _, path := range goes {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
	if err := (Store{Dir: t.TempDir() + "/none"}).Sweep(t.Context()); err != nil {
		t.Errorf("no store: %v", err)
	}
}
