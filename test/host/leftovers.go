package host

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bield/internal/cgroup"

	"bield/test/fakes"
)

// End ends the daemon and holds the machine to have nothing left.
func (h *Host) End(t testing.TB) {
	_ = h.ssh.Close()
	if t.Failed() {
		for _, log := range []string{h.Run.Log(), filepath.Join(h.Work, "bieldd.log")} {
			if text, err := os.ReadFile(log); err == nil {
				t.Logf("%s:\n%s", log, text)
			}
		}
	} else if left := h.Leftovers(); len(left) > 0 {
		t.Errorf("left: %s", strings.Join(left, "; "))
	}
	if err := h.EndDaemon(unix.SIGTERM); err != nil {
		t.Error(err)
	}
	for _, p := range h.Processes() {
		if !t.Failed() {
			t.Errorf("outlived the daemon: %s", p.Command)
		}
	}
	h.KillAll()
	// What a test that failed leaves no daemon will ever remove.
	if err := h.clearGroups(); err != nil {
		t.Error(err)
	}
}

// KillAll kills all that was started here and that still runs.
func (h *Host) KillAll() {
	for _, p := range h.Processes() {
		_ = unix.Kill(p.PID, unix.SIGKILL)
	}
}

// Mounts names what is mounted on the machine where bield works.
func (h *Host) Mounts() []string {
	text, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	var all []string
	for line := range strings.Lines(string(text)) {
		at := strings.Fields(line)[4] // proc_pid_mountinfo(5)
		for _, dir := range []string{h.Run.Dir, h.Cache, filepath.Join(h.Work, "state"), filepath.Join(h.Work, "tmp")} {
			if strings.HasPrefix(at, dir+"/") {
				all = append(all, "mount "+at)
			}
		}
	}
	return all
}

// clearGroups removes the machine's control groups. It is for its own thread.
func (h *Host) clearGroups() error {
	groups := cgroup.Groups{Owner: h.Owner()}
	return groups.Sweep(context.Background(), nil)
}

// Groups names the control groups that the machine's bield has. It is for the
// machine's own thread.
func (h *Host) Groups() []string {
	groups := cgroup.Groups{Owner: cgroup.Owner(h.Owner())}
	group, err := groups.Of("any")
	if err != nil {
		return nil // the machine has none to use
	}
	var all []string
	for _, dir := range group {
		left, _ := filepath.Glob(filepath.Dir(dir) + "/vm-*")
		if _, err := os.Stat(filepath.Dir(dir)); err == nil && len(left) == 0 {
			left = []string{filepath.Dir(dir)}
		}
		for _, path := range left {
			all = append(all, "group "+path)
		}
	}
	return all
}

// Leftovers names what is there beside the daemon with its socket and logs. It
// is for the machine's own thread.
func (h *Host) Leftovers() []string {
	left := slices.Concat(h.Changes(), h.Mounts(), h.Groups())
	daemon, _ := h.DaemonPID()
	for _, p := range h.Processes() {
		if p.PID != daemon {
			left = append(left, fmt.Sprintf("process %d %s", p.PID, p.Command))
		}
	}
	left = append(left, files(h.Run.Dir, func(name string) bool {
		return !strings.HasPrefix(name, "bieldd.") && !strings.HasPrefix(name, "events.log") && !slices.Contains([]string{".", "records", "vms", "state.json", "fates.json"}, name)
	})...)
	return append(left, h.Temporary()...)
}

// Changes names what differs from the machine as it was made: links, tables,
// forwarding. It is for the machine's own thread.
func (h *Host) Changes() []string {
	now, err := fakes.Settings()
	if err != nil {
		return []string{err.Error()}
	}
	var all []string
	for _, key := range slices.Sorted(maps.Keys(now)) {
		if now[key] != h.before[key] {
			all = append(all, key+": "+now[key])
		}
	}
	for _, key := range slices.Sorted(maps.Keys(h.before)) {
		if _, there := now[key]; !there {
			all = append(all, key+": gone")
		}
	}
	return all
}

// Temporary names the temporary files of the machine: whatever is in $TMPDIR,
// and half a file or folder beside the place of a whole one.
func (h *Host) Temporary() []string {
	left := files(filepath.Join(h.Work, "tmp"), func(name string) bool { return name != "." })
	half := func(path string) bool {
		name := filepath.Base(path)
		return name != "." && strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".new")
	}
	left = append(left, files(filepath.Join(h.Work, "state"), half)...)
	if h.Cache != filepath.Join(Base(), "cache") {
		left = append(left, files(h.Cache, half)...)
	}
	return left
}

// files names what lies below dir and is wanted, by its path there.
func files(dir string, wanted func(name string) bool) []string {
	var all []string
	_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if name, _ := filepath.Rel(dir, path); err == nil && wanted(name) {
			all = append(all, filepath.Base(dir)+": "+name)
		}
		return nil
	})
	return all
}
