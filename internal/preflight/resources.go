package preflight

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"bield/internal/process"
	"bield/internal/spec"
	"bield/internal/state"
)

// enoughFiles is what makes file handles unnecessary: docs/security.md.
const enoughFiles = 1 << 18

func (h Host) openFiles(ctx context.Context) Result {
	if !h.root() {
		return needsRoot("what bieldd may raise its limit of open files to")
	}
	got, err := process.FileLimit(enoughFiles)
	if err != nil {
		return warn(err.Error(), "mount /proc")
	}
	// One that its unit started may have more than this shell.
	if d := h.Daemon(ctx); d.Runs {
		var limit unix.Rlimit
		if unix.Prlimit(d.PID, unix.RLIMIT_NOFILE, nil, &limit) == nil {
			got = max(got, limit.Max)
		}
	}
	return judgeFiles(got)
}

func judgeFiles(got uint64) Result {
	if got >= enoughFiles {
		return ok("a share's virtiofsd can have %d and more", enoughFiles)
	}
	return warn(fmt.Sprintf("a share's virtiofsd can have %d at most, where %d are wanted: it uses file handles instead, which makes looking up files slower", got, enoughFiles),
		"raise the hard limit: LimitNOFILE=1048576 in a systemd unit, `ulimit -Hn 1048576` in a shell, --ulimit nofile=1048576 for a container")
}

// memory only warns: what VMs of bield's hold is not available either.
func (h Host) memory() Result {
	available, err := h.memAvailable()
	if err != nil {
		return warn("how much is available is not known: " + err.Error())
	}
	host := h.Config.Host
	smallest, whose := spec.DefaultMemoryMiB, "a VM with the default mem"
	for i, vm := range host.VMs {
		if i == 0 || vm.MemoryMiB < smallest {
			smallest, whose = vm.MemoryMiB, "VM "+vm.Name
		}
	}
	text := fmt.Sprintf("%d MiB available; memoryReserve %d MiB, %s %d MiB", available, host.MemoryReserveMiB, whose, smallest)
	if available >= host.MemoryReserveMiB+smallest {
		return ok("%s", text)
	}
	return warn("no room for another VM: "+text, "stop what else uses memory, or lower `mem` (or `memoryReserve`) in the configuration")
}

// memAvailable is MemAvailable of proc_meminfo(5) in MiB.
func (h Host) memAvailable() (int, error) {
	text, err := os.ReadFile(h.path("proc/meminfo"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemAvailable:" {
			kib, err := strconv.Atoi(f[1])
			return kib / 1024, err
		}
	}
	return 0, errors.New("/proc/meminfo has no MemAvailable")
}

// What a disk should have free: keys, logs and records are a few MiB a VM; an
// image takes about 1 GB and 20,000 files while it is made.
const (
	stateMiB   = 64
	imageMiB   = 1024
	imageFiles = 30_000
)

func (h Host) diskOfState() Result {
	return disk("the state folder", h.Config.Host.StateDir, stateMiB, 0, false)
}

func (h Host) diskOfCache() Result {
	images, _ := filepath.Glob(filepath.Join(h.Cache.Images(), "*", "manifest.json"))
	r := disk("the cache", h.Cache.Dir, imageMiB, imageFiles, true)
	if r.State == Fail && len(images) > 0 {
		r.State = Warn
		r.Do = append(r.Do, "sudo bield image prune")
	}
	return r
}

// disk looks at the file system that a folder is on, or will be.
func disk(what, dir string, wantMiB, wantFiles uint64, programs bool) Result {
	at, err := existing(dir)
	if err != nil {
		return skipped(err.Error())
	}
	var fsys unix.Statfs_t
	if err := unix.Statfs(at, &fsys); err != nil {
		return warn(fmt.Sprintf("look at the file system of %s: %v", at, err))
	}
	return judgeDisk(what, dir, fsys, wantMiB, wantFiles, programs)
}

func judgeDisk(what, dir string, fsys unix.Statfs_t, wantMiB, wantFiles uint64, programs bool) Result {
	free := fsys.Bavail * uint64(fsys.Bsize) >> 20
	text := fmt.Sprintf("%d MiB free for %s %s", free, what, dir)
	move := "or put " + what + " elsewhere: " + map[bool]string{true: "set " + state.EnvCacheDir, false: "set `stateDir`"}[programs]
	switch {
	case fsys.Flags&unix.ST_RDONLY != 0:
		return fail(dir+" is on a read-only file system", "mount it writable", move)
	case programs && fsys.Flags&unix.ST_NOEXEC != 0:
		return fail(dir+" is on a file system mounted noexec: no image can be made there", "mount it exec", move)
	case free < wantMiB:
		return fail(fmt.Sprintf("%s, less than %d", text, wantMiB), "make room", move)
	// Files is 0 where the file system does not count.
	case fsys.Files > 0 && fsys.Ffree < wantFiles:
		return fail(fmt.Sprintf("%d inodes free for %s %s, less than the %d that an image needs", fsys.Ffree, what, dir, wantFiles), "remove files", move)
	}
	return ok("%s", text)
}

// existing is the folder, or the nearest above it that is there.
func existing(dir string) (string, error) {
	for {
		_, err := os.Stat(dir)
		if err == nil || !errors.Is(err, fs.ErrNotExist) || filepath.Dir(dir) == dir {
			return dir, err
		}
		dir = filepath.Dir(dir)
	}
}
