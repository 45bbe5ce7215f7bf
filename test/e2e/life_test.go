package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"bield/internal/spec"
)

// TestLife follows one VM through what happens to VMs: its daemon is killed, it
// powers itself off, a share of its own dies.
func TestLife(t *testing.T) {
	h := newHost(t)
	before := settings(t)
	h.configure(t, minimal(h.folder(t, "work", guestUID, guestGID)))
	h.bield(t, "up", "one")
	t.Run("it outlives its daemon and is taken over", func(t *testing.T) { outlives(t, h) })
	t.Run("what it holds and what happened to it", func(t *testing.T) { observed(t, h) })
	t.Run("it powers itself off and is down", func(t *testing.T) { powersOff(t, h, before) })
	t.Run("a virtiofsd that dies stops it, with the reason", func(t *testing.T) { losesShare(t, h, before) })
	t.Run("a kernel panic is noticed", func(t *testing.T) { panics(t, h, before) })
}

func outlives(t *testing.T, h *host) {
	boot := h.in(t, "one", "cat /proc/sys/kernel/random/boot_id")
	pid, err := daemonPID(h.bin, h.run)
	if err != nil || pid == 0 {
		t.Fatal(pid, err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := waitFor(10*time.Second, "the daemon's end", func() bool { return zombie(pid) }); err != nil {
		t.Fatal(err)
	}
	want(t, "state under a new daemon", string(h.status(t, "one").State), string(spec.StateRunning))
	want(t, "boot id", h.in(t, "one", "cat /proc/sys/kernel/random/boot_id"), boot)
	want(t, "workspace", h.in(t, "one", "echo still > /workspace/here && cat /workspace/here"), "still")
}

// becomes waits until ls shows a state.
func becomes(t *testing.T, h *host, name string, state spec.State) spec.VMStatus {
	t.Helper()
	var s spec.VMStatus
	err := waitFor(40*time.Second, fmt.Sprintf("%s of %s", state, name), func() bool {
		s = h.status(t, name)
		return s.State == state
	})
	if err != nil {
		t.Fatalf("%v; it is %s %s", err, s.State, s.Reason)
	}
	return s
}

func powersOff(t *testing.T, h *host, before map[string]string) {
	h.try(t, "one", "sudo poweroff")
	s := becomes(t, h, "one", spec.StateDown)
	want(t, "reason", s.Reason, "")
	nothingLeft(t, h, before)
}

func losesShare(t *testing.T, h *host, before map[string]string) {
	h.bield(t, "up", "one")
	var i spec.Inspection
	if err := json.Unmarshal([]byte(h.bield(t, "inspect", "one")), &i); err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(i.Processes, func(p spec.Process) bool { return p.Share == spec.WorkspaceTag })
	if at < 0 {
		t.Fatalf("no virtiofsd of the workspace: %+v", i.Processes)
	}
	victim := i.Processes[at].PID
	// Its own child serves where a launcher or a sandbox stands before it.
	for _, p := range processes() {
		if p.parent == victim {
			victim = p.pid
		}
	}
	if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s := becomes(t, h, "one", spec.StateFailed)
	contains(t, "reason", s.Reason, "virtiofsd", "share", "by force")
	nothingLeft(t, h, before)
	h.bield(t, "down", "one")
	want(t, "reason after down", h.status(t, "one").Reason, "")
}

func panics(t *testing.T, h *host, before map[string]string) {
	h.bield(t, "up", "one")
	h.in(t, "one", "nohup sh -c 'sleep 1; echo c | sudo tee /proc/sysrq-trigger' >/dev/null 2>&1 &")
	if err := waitFor(40*time.Second, "the VM's end", func() bool { return h.status(t, "one").State != spec.StateRunning }); err != nil {
		t.Fatal(err)
	}
	contains(t, "console", h.bield(t, "logs", "one"), "sysrq triggered crash")
	s := becomes(t, h, "one", spec.StateFailed)
	contains(t, "reason", s.Reason, "its kernel panicked")
	nothingLeft(t, h, before)
}
