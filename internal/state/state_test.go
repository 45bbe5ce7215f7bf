package state

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRecords(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.json")
	var got map[string]int
	if err := Read(path, &got); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read what is not there: %v", err)
	}
	if err := Write(path, map[string]int{"a": 1}, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Read(path, &got); err != nil || got["a"] != 1 {
		t.Errorf("got %v %v", got, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v %v", info.Mode(), err)
	}
	for range 2 {
		if err := Remove(path); err != nil {
			t.Error(err)
		}
	}
}

// TestFullDisk writes where there is no room: what was there before stays.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("BIELD_TEST_REQUIRE") == "1" {
			t.Fatal("needs root to mount a small file system")
		}
		t.Skip("needs root to mount a small file system")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16k"); err != nil {
		t.Skip("cannot mount:", err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	path := filepath.Join(dir, "r.json")
	if err := Write(path, "old", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v", err)
	}
	var got string
	if err := Read(path, &got); err != nil || got != "old" {
		t.Errorf("got %q %v", got, err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left over: %v", entries)
	}
}

func TestLinksAreNoFolders(t *testing.T) {
	base := t.TempDir()
	if err := os.Symlink(os.TempDir(), filepath.Join(base, "link")); err != nil {
		t.Fatal(err)
	}
	if err := MakeOwned(filepath.Join(base, "link"), 0o700, uint32(os.Getuid()), uint32(os.Getgid())); err == nil {
		t.Error("a link was taken for a folder")
	}
}
