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

// fill puts whole images into a store, a minute apart.
func fill(t *testing.T, s Store, digests ...string) {
	t.Helper()
	for i, d := range digests {
		at := time.Unix(int64(i)*60, 0).UTC().Format(time.RFC3339)
		writeFiles(t, s.path(d), map[string]string{
			"manifest.json":        `{"version":1,"digest":"` + d + `","inputs":{"arch":"amd64"},"sizeBytes":10,"madeAt":"` + at + `"}`,
			"tree/rootfs/etc/file": "x", "vmlinux": "", "modules.cpio": "",
		})
	}
}

var one, two, three = strings.Repeat("1", 64), strings.Repeat("2", 64), strings.Repeat("3", 64)

func digestsOf(images []Image) []string {
	var out []string
	for _, i := range images {
		out = append(out, i.Digest)
	}
	return out
}

func TestStore(t *testing.T) {
	s := Store{Dir: filepath.Join(t.TempDir(), "images")}
	if images, err := s.List(); err != nil || len(images) != 0 {
		t.Errorf("an absent store: %v, %v", images, err)
	}
	fill(t, s, two, one)
	broken := strings.Repeat("4", 64)
	fill(t, s, broken)
	if err := os.Remove(filepath.Join(s.path(broken), "vmlinux")); err != nil {
		t.Fatal(err)
	}
	writeFiles(t, s.path(three), map[string]string{"manifest.json": `{"version":99,"digest":"` + three + `"}`})
	images, err := s.List()
	if err != nil || !slices.Equal(digestsOf(images), []string{two, one}) {
		t.Errorf("got %v, %v", digestsOf(images), err)
	}
	for _, digest := range []string{three, broken, "../" + one, "", one[:12]} {
		if _, err := s.Find(digest); !errors.Is(err, ErrNotFound) {
			t.Errorf("find %q: %v", digest, err)
		}
	}
	if err := s.Remove(one); err != nil {
		t.Error(err)
	}
	if err := s.Remove(one); !errors.Is(err, ErrNotFound) {
		t.Errorf("remove twice: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.Dir, ".tmp-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestPrune(t *testing.T) {
	s := Store{Dir: filepath.Join(t.TempDir(), "images")}
	fill(t, s, one, two, three)
	busy, broken := strings.Repeat("b", 64), strings.Repeat("4", 64)
	fill(t, s, broken)
	if err := os.Remove(filepath.Join(s.path(broken), "manifest.json")); err != nil {
		t.Fatal(err)
	}
	writeFiles(t, s.Dir, map[string]string{
		tmpPrefix(busy) + "x/tree/a": "", tmpPrefix(one) + "x/tree/a": "", "logs/" + one + ".log": "", ".tmp-odd": "", "note": ""})
	for _, held := range []string{busy, three} {
		lock, err := s.tryLock(held)
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Close()
	}
	done, err := s.Prune(t.Context(), func(d string) bool { return d == two })
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(done.Images, []string{one}) || done.FreedBytes != 10 || done.Leftovers != 2 {
		t.Errorf("pruned %+v", done)
	}
	images, _ := s.List()
	if !slices.Equal(digestsOf(images), []string{two, three}) {
		t.Errorf("left %v", digestsOf(images))
	}
	entries, _ := os.ReadDir(s.Dir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{tmpPrefix(busy) + "x", ".tmp-odd", two, three, "locks", "logs", "note"}; !slices.Equal(names, want) {
		t.Errorf("left %v", names)
	}
	if logs, _ := os.ReadDir(filepath.Join(s.Dir, "logs")); len(logs) != 0 {
		t.Errorf("logs %v", logs)
	}
}

// TestPruneInitrds: of a kept image those go that were not used for a day.
func TestPruneInitrds(t *testing.T) {
	s := Store{Dir: filepath.Join(t.TempDir(), "images")}
	fill(t, s, one)
	img, err := s.Find(one)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "bield-init")
	writeFiles(t, filepath.Dir(program), map[string]string{"bield-init": string(fakeELF("init"))})
	used, err := img.Initrd(t.Context(), program)
	if err != nil {
		t.Fatal(err)
	}
	age(t, used, 48*time.Hour)
	if again, err := img.Initrd(t.Context(), program); err != nil || again != used {
		t.Fatalf("asked again: %q, %v", again, err)
	}
	initrd(t, s, "old", 25*time.Hour)
	rested := initrd(t, s, "rested", 23*time.Hour)
	wantInitrds(t, s, used, rested)
	age(t, used, 25*time.Hour)
	wantInitrds(t, s, rested)
}

func TestPruneInitrdsBusy(t *testing.T) {
	s := Store{Dir: filepath.Join(t.TempDir(), "images")}
	fill(t, s, one)
	old := initrd(t, s, "old", 25*time.Hour)
	lock, err := state.Lock(Image{dir: s.path(one)}.initrdLock())
	if err != nil {
		t.Fatal(err)
	}
	wantInitrds(t, s, old)
	lock.Close()
	wantInitrds(t, s)
}

// initrd puts an initramfs into image one.
func initrd(t *testing.T, s Store, name string, since time.Duration) string {
	t.Helper()
	path := filepath.Join(s.path(one), "initrd-"+name+".cpio")
	writeFiles(t, s.path(one), map[string]string{filepath.Base(path): ""})
	age(t, path, since)
	return path
}

// wantInitrds prunes, keeping all images, and looks at what is left.
func wantInitrds(t *testing.T, s Store, want ...string) {
	t.Helper()
	if _, err := s.Prune(t.Context(), func(string) bool { return true }); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(filepath.Join(s.path(one), "initrd-*"))
	slices.Sort(want)
	if !slices.Equal(left, want) {
		t.Errorf("left %v, want %v", left, want)
	}
}

// age makes a file look as if it was last written so long ago.
func age(t *testing.T, path string, since time.Duration) {
	t.Helper()
	if err := os.Chtimes(path, time.Time{}, time.Now().Add(-since)); err != nil {
		t.Fatal(err)
	}
}

func TestRemoveBusy(t *testing.T) {
	s := Store{Dir: filepath.Join(t.TempDir(), "images")}
	fill(t, s, one)
	lock, err := s.tryLock(one)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(one); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("error %v", err)
	}
	lock.Close()
	if err := s.Remove(one); err != nil {
		t.Error(err)
	}
}
