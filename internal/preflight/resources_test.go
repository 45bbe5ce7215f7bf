package preflight

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"bield/internal/spec"
)

func TestOpenFiles(t *testing.T) {
	expect(t, judgeFiles(1<<20), OK)
	expect(t, judgeFiles(1<<18), OK)
	expect(t, judgeFiles(20_000), Warn, "20000 at most", "LimitNOFILE")
	expect(t, Host{UID: 1000}.openFiles(t.Context()), Skipped, "sudo bield doctor")
}

func TestMemory(t *testing.T) {
	h := fakeHost(t, map[string]string{"proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable:    2097152 kB\n"})
	expect(t, h.memory(), Warn, "2048 MiB available", "default mem 4096")
	h.Config.Host.VMs = []spec.VM{{Name: "big", MemoryMiB: 4096}, {Name: "small", MemoryMiB: 1024}}
	expect(t, h.memory(), OK, "VM small 1024 MiB")
	h.Config.Host.MemoryReserveMiB = 1025
	expect(t, h.memory(), Warn, "memoryReserve 1025")
	if r := fakeHost(t, nil).memory(); r.State != Warn {
		t.Errorf("without /proc: %+v", r)
	}
}

func TestDisk(t *testing.T) {
	roomy := unix.Statfs_t{Bsize: 4096, Bavail: 1 << 20, Files: 1 << 20, Ffree: 1 << 19}
	with := func(change func(*unix.Statfs_t)) unix.Statfs_t {
		s := roomy
		change(&s)
		return s
	}
	tests := []struct {
		name  string
		fsys  unix.Statfs_t
		want  State
		words []string
	}{
		{"roomy", roomy, OK, []string{"4096 MiB free for the cache /c"}},
		{"full", with(func(s *unix.Statfs_t) { s.Bavail = 100_000 }), Fail, []string{"390 MiB free", "less than 1024", "BIELD_CACHE_DIR"}},
		{"out of inodes", with(func(s *unix.Statfs_t) { s.Ffree = 100 }), Fail, []string{"100 inodes"}},
		{"no inodes counted", with(func(s *unix.Statfs_t) { s.Files, s.Ffree = 0, 0 }), OK, nil},
		{"read-only", with(func(s *unix.Statfs_t) { s.Flags = unix.ST_RDONLY }), Fail, []string{"read-only"}},
		{"noexec", with(func(s *unix.Statfs_t) { s.Flags = unix.ST_NOEXEC }), Fail, []string{"noexec"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			expect(t, judgeDisk("the cache", "/c", tt.fsys, imageMiB, imageFiles, true), tt.want, tt.words...)
		})
	}
	expect(t, judgeDisk("the state folder", "/s", with(func(s *unix.Statfs_t) { s.Bavail = 1000 }), stateMiB, 0, false), Fail, "stateDir")
}

// TestDiskOfWhatIsNotThereYet looks at the folder above.
func TestDiskOfWhatIsNotThereYet(t *testing.T) {
	dir := t.TempDir()
	if at, err := existing(filepath.Join(dir, "a/b/c")); err != nil || at != dir {
		t.Errorf("%s, %v", at, err)
	}
	h := fakeHost(t, nil)
	h.Config.Host.StateDir = filepath.Join(dir, "not/yet")
	if r := h.diskOfState(); r.Found == "" || r.State == Skipped {
		t.Errorf("%+v", r)
	}
}
