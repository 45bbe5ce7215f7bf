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

// TestSweep plants what a daemon leaves that dies in the middle of writing.
func TestSweep(t *testing.T) {
	base := t.TempDir()
	run, folder := Run{Dir: filepath.Join(base, "run")}, Folder{Dir: filepath.Join(base, "state")}
	if err := errors.Join(run.Make(), folder.Make()); err != nil {
		t.Fatal(err)
	}
	stays := []string{
		run.Record("one"), folder.Applied(), folder.UserKey(7), folder.Console("one"),
		folder.HostKeys("one") + "/key", folder.HostKeys("one") + "/mine.new", folder.VM("one") + "/key.new",
		filepath.Join(base, "elsewhere/key.new"), folder.HostKeys("folder") + "/key.new/file",
	}
	goes := []string{
		run.Record("one") + ".new", run.HostRecord() + ".new", folder.Applied() + ".new",
		folder.UserKey(7) + ".new", folder.DaemonKey() + ".pub.new", folder.Console("one") + ".new",
		folder.HostKeys("one") + "/key.new", folder.HostKeys("one") + "/key.pub.new",
	}
	for _, path := range append(append([]string{}, stays...), goes...) {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(folder.VM("evil"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(base, "elsewhere"), folder.HostKeys("evil")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(run.Sweep(), folder.Sweep("key")); err != nil {
		t.Error(err)
	}
	for _, path := range stays {
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	}
	for _, path := range goes {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there (%v)", path, err)
		}
	}
	if err := errors.Join(Run{Dir: base + "/none"}.Sweep(), Folder{Dir: base + "/none"}.Sweep("key")); err != nil {
		t.Errorf("where there is nothing: %v", err)
	}
}

// TestUnfinished writes over what an interrupted write has left.
func TestUnfinished(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.json")
	if err := os.WriteFile(path+unfinished, []byte("{half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, "whole", 0o644); err != nil {
		t.Fatal(err)
	}
	var got string
	if err := Read(path, &got); err != nil || got != "whole" {
		t.Errorf("got %q %v", got, err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("left over: %v", entries)
	}
}
