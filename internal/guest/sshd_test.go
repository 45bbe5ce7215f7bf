package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bield/internal/guestlink"
)

func TestSSHDConfig(t *testing.T) {
	golden(t, "sshd_config.txt", sshdConfigText(testConfig()))
	path, err := exec.LookPath("sshd")
	if err != nil {
		t.Skip("no sshd here to check the text with; the real VMs do")
	}
	file := filepath.Join(t.TempDir(), "sshd_config")
	if err := os.WriteFile(file, []byte(sshdConfigText(testConfig())), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(path, "-G", "-f", file).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestSSHDCommand(t *testing.T) {
	old := strings.Join(sshdCommand(tree(t.TempDir())), " ")
	if !strings.HasSuffix(old, " -r") {
		t.Errorf("old: %s", old)
	}
	split := strings.Join(sshdCommand(fill(t, map[string]string{sshdSession: ""})), " ")
	if strings.Contains(split, "-r") {
		t.Errorf("new: %s", split)
	}
}

func TestCheckHostKey(t *testing.T) {
	root := fill(t, map[string]string{"/keys/good": "key", "/keys/empty": "", "/keys/folder/x": ""})
	for path, want := range map[string]string{"/keys/good": "", "/keys/none": "is missing: the share at /keys",
		"/keys/empty": "empty or no file", "/keys/folder": "empty or no file"} {
		err := checkHostKey(root, path)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

func TestPrepareSSHDNeedsOne(t *testing.T) {
	err := prepareSSHD(tree(t.TempDir()), testConfig())
	if err == nil || !strings.Contains(err.Error(), "add openssh-server") {
		t.Fatalf("got %v", err)
	}
}

// asInit runs a test as PID 1 of its own namespace, with a run folder.
func asInit(t *testing.T) bool {
	t.Helper()
	if !inNamespaces(t, unix.CLONE_NEWPID) {
		return false
	}
	for _, m := range []mountPoint{{"proc", "/proc", "proc", 0, "", 0o555, false}, {"run", "/run", "tmpfs", 0, "", 0o755, false}} {
		if err := tree("/").mount(m); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(runDir, 0o755); err != nil {
		t.Fatal(err)
	}
	return true
}

func startReaper(t *testing.T) *reaper {
	r := newReaper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return r
}

func script(r *reaper, text string) (*child, error) {
	return r.start([]string{"/bin/sh", "-c", text}, []string{"PATH=/usr/bin:/bin"}, os.Stderr)
}

func TestReaper(t *testing.T) {
	if !asInit(t) {
		return
	}
	r := startReaper(t)
	c, err := script(r, "exit 7")
	if err != nil {
		t.Fatal(err)
	}
	if s := <-c.exited; exitText(s) != "exit status 7" {
		t.Error(exitText(s))
	}
	// Grandchildren become orphans, and PID 1's to reap.
	if c, err = script(r, "for i in 1 2 3; do (sleep 0.05 &) ; done; kill -9 $$"); err != nil {
		t.Fatal(err)
	}
	if s := <-c.exited; exitText(s) != "killed by SIGKILL" {
		t.Error(exitText(s))
	}
	select {
	case <-r.childless():
	case <-time.After(10 * time.Second):
		t.Fatal("orphans are left")
	}
}

func TestEndProcesses(t *testing.T) {
	if !asInit(t) {
		return
	}
	r := startReaper(t)
	ready := filepath.Join(t.TempDir(), "ready")
	if err := unix.Mkfifo(ready, 0o600); err != nil {
		t.Fatal(err)
	}
	// One that ends when asked, one that ignores SIGTERM, one that is stopped.
	for _, text := range []string{"sleep 100", "trap '' TERM; echo > %s; sleep 100", "kill -STOP $$"} {
		if strings.Contains(text, "%s") {
			text = fmt.Sprintf(text, ready)
		}
		if _, err := script(r, text); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.ReadFile(ready); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	endProcesses(t.Context(), r)
	if took := time.Since(start); took > termGrace {
		t.Errorf("took %v", took)
	}
	select {
	case <-r.childless():
	case <-time.After(time.Second):
		t.Error("processes are left")
	}
}

func TestEndProcessesKillsTheStubborn(t *testing.T) {
	if !asInit(t) {
		return
	}
	r := startReaper(t)
	ready := filepath.Join(t.TempDir(), "ready")
	if err := unix.Mkfifo(ready, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := script(r, "trap '' TERM HUP; echo > "+ready+"; while :; do sleep 100; done"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(ready); err != nil {
		t.Fatal(err)
	}
	endProcesses(t.Context(), r)
	select {
	case <-r.childless():
	case <-time.After(time.Second):
		t.Error("a process is left")
	}
}

func newSSHD(r *reaper, text string) (*sshd, *journal) {
	j := newJournal()
	return &sshd{reaper: r, journal: j, console: &console{w: os.Stderr},
		argv: []string{"/bin/sh", "-c", text}, env: []string{"PATH=/usr/bin:/bin"}}, j
}

func TestSSHDFailsWithItsOwnWords(t *testing.T) {
	if !asInit(t) {
		return
	}
	s, _ := newSSHD(startReaper(t), "echo 'no hostkeys available' >&2; printf '\\033[1mexiting\\n' >&2; exit 1")
	_, err := s.start(testContext(t))
	if err == nil || !strings.Contains(err.Error(), "exit status 1: [1mexiting") {
		t.Fatalf("got %v", err)
	}
}

func TestSSHDIsStartedAgain(t *testing.T) {
	if !asInit(t) {
		return
	}
	s, j := newSSHD(startReaper(t), "echo $$ > "+sshdPIDFile+"; exec sleep 100")
	ctx := testContext(t)
	c, err := s.start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	keeping, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); s.keep(keeping, c) }()
	for round := range 2 {
		b, err := os.ReadFile(sshdPIDFile)
		if err != nil {
			t.Fatal(err)
		}
		var pid int
		_, _ = fmt.Sscan(string(b), &pid)
		if err := unix.Kill(pid, unix.SIGSEGV); err != nil {
			t.Fatal(err)
		}
		awaitEvents(ctx, t, j, 2*(round+1))
	}
	events, _ := j.after(0)
	if !strings.Contains(events[0].Message, "killed by SIGSEGV") || events[1].State != guestlink.StateDone {
		t.Errorf("%+v", events)
	}
	stop()
	<-done
	endProcesses(ctx, s.reaper)
}

func awaitEvents(ctx context.Context, t *testing.T, j *journal, n int) {
	t.Helper()
	for {
		events, changed := j.after(0)
		if len(events) >= n {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("%d events: %+v", len(events), events)
		}
	}
}

func TestAwaitPIDFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	done := make(chan error, 1)
	go func() { done <- awaitPIDFile(testContext(t), path) }()
	if err := os.WriteFile(path, []byte("12\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := awaitPIDFile(ctx, path+"x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}
