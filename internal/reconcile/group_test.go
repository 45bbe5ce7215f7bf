package reconcile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bield/internal/cgroup"
)

// TestOutOfMemory: a VM whose processes the kernel has ended at their limit says
// so, whatever else was seen of its end.
func TestOutOfMemory(t *testing.T) {
	dir := t.TempDir()
	r := run{group: cgroup.Group{dir}, groupMiB: 1216}
	seen := errors.New("the virtiofsd of share workspace ended")
	for _, c := range []struct {
		file, text string
		killed     bool
	}{
		{"memory.events", "oom 1\noom_kill 0\noom_group_kill 0\n", false},
		{"memory.events", "oom 1\noom_kill 2\noom_group_kill 1\n", true},
		{"memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", true},
	} {
		path := filepath.Join(dir, c.file)
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, cause := range []error{nil, seen} {
			err := r.outOfMemory(cause)
			switch {
			case cause != nil && !errors.Is(err, cause):
				t.Errorf("%q: %v lost %v", c.text, err, cause)
			case c.killed && (err == nil || !strings.Contains(err.Error(), "(1216 MiB)")), !c.killed && text(err) != text(cause):
				t.Errorf("%q: %v", c.text, err)
			}
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}
