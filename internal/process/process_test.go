package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const testUID, testGID = 54321, 54322

// program returns a Command that runs this test binary as another user.
func program(t *testing.T, part string) Command {
	t.Helper()
	needRoot(t)
	// The other user can't reach the binary in its private folder: bring it.
	dir, err := os.MkdirTemp("/tmp", "bield-process-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	binary := filepath.Join(dir, "program")
	if err := errors.Join(os.Chmod(dir, 0o755), bringSelf(binary)); err != nil {
		t.Fatal(err)
	}
	return Command{
		Path: binary, Args: []string{"play", part}, UID: testUID, GID: testGID,
		LogPath: filepath.Join(t.TempDir(), "log"),
	}
}

// bringSelf links or copies this program to path.
func bringSelf(path string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if os.Link(self, path) == nil {
		return nil
	}
	data, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(path, data, 0o755), os.Chmod(path, 0o755))
}

func start(t *testing.T, c Command) *Process {
	t.Helper()
	p, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() })
	return p
}

func wait(t *testing.T, p *Process) Exit {
	t.Helper()
	select {
	case <-p.Done():
		return p.Exit()
	case <-time.After(20 * time.Second):
		t.Fatal("process did not end")
		return Exit{}
	}
}

// waitLog waits until the program has written a line that begins so.
func waitLog(t *testing.T, path, prefix string) string {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		for _, line := range TailLog(path, 10) {
			if rest, ok := strings.CutPrefix(line, prefix); ok {
				return rest
			}
		}
	}
	t.Fatalf("no line %q in the log: %q", prefix, TailLog(path, 10))
	return ""
}

func runReport(t *testing.T, c Command) identity {
	t.Helper()
	if exit := wait(t, start(t, c)); exit != (Exit{Known: true}) {
		t.Fatalf("report: %s: %q", exit, TailLog(c.LogPath, 5))
	}
	text, err := os.ReadFile(c.LogPath)
	if err != nil {
		t.Fatal(err)
	}
	var id identity
	if err := json.Unmarshal(text, &id); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return id
}

func TestIdentity(t *testing.T) {
	file, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	c := program(t, "report")
	c.Groups, c.Files, c.Env, c.NewNetNS, c.Dir = []uint32{7, 9}, []*os.File{file}, []string{"A=b"}, true, "/usr"
	id := runReport(t, c)
	want := map[string]string{
		"Uid": "54321 54321 54321 54321", "Gid": "54322 54322 54322 54322", "Groups": "7 9",
		"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none, "NoNewPrivs": "1",
	}
	for key, value := range want {
		if id.Status[key] != value {
			t.Errorf("%s = %q, want %q", key, id.Status[key], value)
		}
	}
	net, _ := os.Readlink("/proc/self/ns/net")
	switch {
	case id.Umask != 0o077, id.Core != 0, id.Cwd != "/usr", id.NetNS == net:
		t.Errorf("umask %o, core %d, cwd %s, net %s (ours %s)", id.Umask, id.Core, id.Cwd, id.NetNS, net)
	case strings.Join(id.FDs, " ") != "0 1 2 3" || id.Links[0] != "/dev/null" || id.Links[3] != "/etc/passwd":
		t.Errorf("descriptors %v → %v", id.FDs, id.Links)
	case len(id.Env) != 1 || id.Env[0] != "A=b":
		t.Errorf("environment %q", id.Env)
	case strconv.Itoa(id.SID) != id.Status["Pid"]:
		t.Errorf("session %d of process %s", id.SID, id.Status["Pid"])
	}
}

const none = "0000000000000000"

func TestUserNamespace(t *testing.T) {
	c := program(t, "report")
	c.IDMap = &IDMap{Base: 900000, Count: 65536}
	if err := os.Chmod(filepath.Dir(c.LogPath), 0o755); err != nil {
		t.Fatal(err)
	}
	id := runReport(t, c)
	user, _ := os.Readlink("/proc/self/ns/user")
	if id.Status["Uid"] != "0 0 0 0" || id.Status["Groups"] != "" || id.Status["NoNewPrivs"] != "1" || id.UserNS == user {
		t.Errorf("uid %s, groups %q, no_new_privs %s, namespace %s (ours %s)",
			id.Status["Uid"], id.Status["Groups"], id.Status["NoNewPrivs"], id.UserNS, user)
	}
	if id.Status["CapEff"] == none {
		t.Error("root of its own user namespace has no capabilities there")
	}
	c = program(t, "sleep")
	c.IDMap = &IDMap{Base: 900000, Count: 65536}
	p := start(t, c)
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d", p.ID().PID), &st); err != nil || st.Uid != 900000 {
		t.Errorf("host uid %d, %v", st.Uid, err)
	}
}

func TestMaxFiles(t *testing.T) {
	c := program(t, "report")
	c.MaxFiles = 1 << 20
	want, err := FileLimit(c.MaxFiles)
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, c)
	wait(t, p)
	if p.MaxFiles() != want {
		t.Errorf("reported %d, want %d", p.MaxFiles(), want)
	}
	text, _ := os.ReadFile(c.LogPath)
	var id identity
	if err := json.Unmarshal(text, &id); err != nil || id.NoFile != want {
		t.Errorf("the program has %d, want %d (%v)", id.NoFile, want, err)
	}
}

func TestStartErrors(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("no program"), 0o644); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*Command)
		want   error
		text   string
	}{
		{"missing", func(c *Command) { c.Path = "/nowhere/program" }, os.ErrNotExist, "execute: no such file"},
		{"not executable", func(c *Command) { c.Path = plain }, os.ErrPermission, "execute: permission denied"},
		{"relative", func(c *Command) { c.Path = "program" }, nil, "not an absolute path"},
		{"root", func(c *Command) { c.UID = 0 }, nil, "host uid 0"},
		{"root in a map", func(c *Command) { c.IDMap = &IDMap{Count: 5} }, nil, "host uid 0"},
		{"no directory", func(c *Command) { c.Dir = "/nowhere" }, os.ErrNotExist, "enter /nowhere"},
		{"no log folder", func(c *Command) { c.LogPath = "/nowhere/log" }, os.ErrNotExist, "/nowhere/log"},
		{"nil file", func(c *Command) { c.Files = []*os.File{nil} }, nil, "is nil"},
		{"missing, with handles", func(c *Command) { c.Path, c.FileHandles = "/nowhere/program", true }, os.ErrNotExist, "execute"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := program(t, "report")
			test.change(&c)
			p, err := Start(t.Context(), c)
			if err == nil {
				_ = p.Kill()
				t.Fatal("no error")
			}
			if test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("error %q, want %q wrapping %v", err, test.text, test.want)
			}
		})
	}
	noChildrenLeft(t)
}

func noChildrenLeft(t *testing.T) {
	t.Helper()
	var ws syscall.WaitStatus
	if pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil); !errors.Is(err, syscall.ECHILD) {
		t.Errorf("child %d is left: %v", pid, err)
	}
}

func TestStartCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("changed my mind")
	cancel(reason)
	if _, err := Start(ctx, program(t, "sleep")); !errors.Is(err, reason) {
		t.Errorf("error %v", err)
	}
	noChildrenLeft(t)
}

func TestExit(t *testing.T) {
	if exit := wait(t, start(t, program(t, "exit7"))); exit != (Exit{Known: true, Code: 7}) {
		t.Errorf("exit %+v", exit)
	}
	c := program(t, "sleep")
	p := start(t, c)
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, p); exit.Signal != syscall.SIGKILL || exit.String() != "killed by SIGKILL" {
		t.Errorf("exit %s", exit)
	}
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal to an ended process: %v", err)
	}
}

func TestStop(t *testing.T) {
	for _, test := range []struct {
		part  string
		grace time.Duration
		want  syscall.Signal
	}{{"sleep", 20 * time.Second, syscall.SIGTERM}, {"stubborn", 50 * time.Millisecond, syscall.SIGKILL}} {
		c := program(t, test.part)
		p := start(t, c)
		waitLog(t, c.LogPath, "up")
		if err := p.Stop(t.Context(), test.grace); err != nil {
			t.Fatal(err)
		}
		if p.Exit().Signal != test.want {
			t.Errorf("%s: %s", test.part, p.Exit())
		}
	}
	noChildrenLeft(t)
}

func TestStopEndsGraceWithContext(t *testing.T) {
	c := program(t, "stubborn")
	p := start(t, c)
	waitLog(t, c.LogPath, "up")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Stop(ctx, time.Hour); err != nil || p.Exit().Signal != syscall.SIGKILL {
		t.Errorf("%v, %s", err, p.Exit())
	}
}

func TestStopTakesTheGroup(t *testing.T) {
	c := program(t, "family")
	p := start(t, c)
	child, err := strconv.Atoi(waitLog(t, c.LogPath, "child "))
	if err != nil {
		t.Fatal(err)
	}
	waitLog(t, c.LogPath, "up")
	if err := p.Stop(t.Context(), 20*time.Second); err != nil {
		t.Fatal(err)
	}
	if s, err := readStat(child); err == nil && !s.dead() {
		t.Errorf("child %d is still there, state %c", child, s.state)
	}
}

func TestAdopt(t *testing.T) {
	c := program(t, "sleep")
	first := start(t, c)
	id := first.ID()
	text, err := json.Marshal(id)
	if err != nil {
		t.Fatal(err)
	}
	var read ID
	if err := json.Unmarshal(text, &read); err != nil || read != id {
		t.Fatalf("%s → %+v, %v", text, read, err)
	}
	adopted, err := Adopt(read)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*ID){
		"other start": func(id *ID) { id.StartTime++ },
		"other boot":  func(id *ID) { id.BootID = "no" },
		"no pid":      func(id *ID) { id.PID = 0 },
		"unused pid":  func(id *ID) { id.PID = 1<<22 - 1 },
	} {
		other := id
		change(&other)
		if _, err := Adopt(other); !errors.Is(err, ErrGone) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := adopted.Stop(t.Context(), 20*time.Second); err != nil {
		t.Fatal(err)
	}
	if adopted.Exit().Known {
		t.Errorf("exit %+v of a process that is not ours", adopted.Exit())
	}
	wait(t, first)
	if _, err := Adopt(id); !errors.Is(err, ErrGone) {
		t.Errorf("adopt an ended process: %v", err)
	}
}

func TestRelease(t *testing.T) {
	p := start(t, program(t, "sleep"))
	again, err := Adopt(p.ID())
	if err != nil {
		t.Fatal(err)
	}
	again.Release()
	again.Release()
	if err := again.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal after release: %v", err)
	}
	select {
	case <-p.Done():
		t.Error("release ended the process")
	case <-again.Done():
		t.Error("release closed done")
	case <-time.After(50 * time.Millisecond):
	}
}

func TestStartIsQuick(t *testing.T) {
	c := program(t, "report")
	begin := time.Now()
	const runs = 10
	for range runs {
		wait(t, start(t, c))
	}
	t.Logf("start and end: %s each", time.Since(begin)/runs)
}

func TestFileLimitLeavesItsOwnAlone(t *testing.T) {
	var before, after unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	for _, want := range []uint64{100, 1 << 20, 1 << 40} {
		got, err := FileLimit(want)
		if err != nil || got > want || got < min(want, before.Max) {
			t.Errorf("%d of %d: %v", got, want, err)
		}
	}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &after); err != nil || before != after {
		t.Errorf("%+v became %+v, %v", before, after, err)
	}
}

func TestNoteComesFirst(t *testing.T) {
	var noted ID
	c := program(t, "sleep")
	c.Note = func(id ID) error {
		noted = id
		command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", id.PID))
		if err != nil || !strings.Contains(string(command), launchName) {
			t.Errorf("the program runs before it is noted: %q %v", command, err)
		}
		return nil
	}
	p, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if p.ID() != noted {
		t.Errorf("noted %v, runs as %v", noted, p.ID())
	}
	if err := p.Kill(); err != nil {
		t.Error(err)
	}
	c.Note = func(id ID) error { noted = id; return errors.New("no room") }
	if _, err := Start(t.Context(), c); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("got %v", err)
	}
	if _, err := Adopt(noted); !errors.Is(err, ErrGone) {
		t.Errorf("a program that was not noted runs: %v", err)
	}
}
