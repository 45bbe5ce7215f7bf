package process

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// handleResult is what the played program says of one file: the errno of each
// way to open it by its handle, and its text.
type handleResult struct {
	Path, Read, Write unix.Errno
	Text              string
}

// playHandle makes a handle of each file and opens it. The files are named
// relative to the working directory. "type:hex" is a handle it may not make,
// "named:NAME" asks for one in a way that is not answered, "bent:NAME" and
// "cut:NAME" are handles that it was given, and spoilt.
func playHandle(files []string) {
	results := map[string]handleResult{}
	mount, err := unix.Open(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for _, name := range files {
		var r handleResult
		handle, errno := makeHandle(name)
		if errno != 0 {
			results[name] = handleResult{errno, errno, errno, ""}
			continue
		}
		_, r.Path = openHandle(mount, handle, unix.O_PATH|unix.O_NOFOLLOW)
		r.Text, r.Read = openHandle(mount, handle, unix.O_RDONLY)
		_, r.Write = openHandle(mount, handle, unix.O_WRONLY)
		results[name] = r
	}
	_ = json.NewEncoder(os.Stdout).Encode(results)
}

func makeHandle(name string) (unix.FileHandle, unix.Errno) {
	kind, text, ok := strings.Cut(name, ":")
	switch {
	case !ok:
		return askHandle(name)
	case kind == "named":
		_, _, err := unix.NameToHandleAt(unix.AT_FDCWD, text, 0)
		errno, _ := errors.AsType[unix.Errno](err)
		return unix.FileHandle{}, errno
	case kind == "bent":
		handle, errno := askHandle(text)
		handle.Bytes()[0] ^= 1
		return handle, errno
	case kind == "cut":
		handle, errno := askHandle(text)
		return unix.NewFileHandle(handle.Type(), handle.Bytes()[:handle.Size()-sealBytes]), errno
	}
	n, _ := strconv.Atoi(kind)
	body, _ := hex.DecodeString(text)
	return unix.NewFileHandle(int32(n), body), 0
}

func askHandle(name string) (unix.FileHandle, unix.Errno) {
	path, err := unix.Open(name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return unix.FileHandle{}, unix.ENOENT
	}
	defer unix.Close(path)
	handle, _, err := unix.NameToHandleAt(path, "", unix.AT_EMPTY_PATH)
	errno, _ := errors.AsType[unix.Errno](err)
	return handle, errno
}

func openHandle(mount int, handle unix.FileHandle, flags int) (string, unix.Errno) {
	fd, err := unix.OpenByHandleAt(mount, handle, flags)
	if err != nil {
		errno, _ := errors.AsType[unix.Errno](err)
		return "", errno
	}
	defer unix.Close(fd)
	buffer := make([]byte, 64)
	n, _ := unix.Read(fd, buffer)
	return string(buffer[:max(n, 0)]), 0
}

// forged is the handle of a file, as an argument of playHandle.
func forged(t *testing.T, path string) string {
	t.Helper()
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path, 0)
	if err != nil {
		skip(t, "the file system of the test has no handles: "+err.Error())
	}
	return fmt.Sprintf("%d:%x", handle.Type(), handle.Bytes())
}

// makeFile makes a file with that owner and mode and its name as text.
func makeFile(t *testing.T, dir, name string, uid, gid int, mode os.FileMode) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := errors.Join(os.WriteFile(path, []byte(name), 0o600), os.Chown(path, uid, gid), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
}

func runHandles(t *testing.T, c Command) map[string]handleResult {
	t.Helper()
	dir, err := os.Open(c.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	c.DirFile = dir
	p := start(t, c)
	if exit := wait(t, p); exit != (Exit{Known: true}) {
		t.Fatalf("%s: %q", exit, TailLog(c.LogPath, 5))
	}
	text, _ := os.ReadFile(c.LogPath)
	results := map[string]handleResult{}
	if err := json.Unmarshal(text, &results); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return results
}

func checkHandles(t *testing.T, got, want map[string]handleResult) {
	t.Helper()
	for name, result := range want {
		if got[name] != result {
			t.Errorf("%s: %+v, want %+v", name, got[name], result)
		}
	}
}

func TestFileHandlesHaveOnlyTheUsersRights(t *testing.T) {
	c := program(t, "handle")
	c.FileHandles, c.Dir = true, filepath.Dir(c.Path)
	makeFile(t, c.Dir, "own", testUID, testGID, 0o600)
	makeFile(t, c.Dir, "locked", testUID, testGID, 0)
	makeFile(t, c.Dir, "readable", 0, 0, 0o644)
	makeFile(t, c.Dir, "secret", 0, 0, 0o600)
	if err := errors.Join(os.Mkdir(filepath.Join(c.Dir, "sub"), 0o755),
		os.Symlink("own", filepath.Join(c.Dir, "link")), unix.Mkfifo(filepath.Join(c.Dir, "fifo"), 0o666)); err != nil {
		t.Fatal(err)
	}
	// What the user may open, but not by a handle that was not issued.
	outside := t.TempDir()
	makeFile(t, outside, "elsewhere", testUID, testGID, 0o600)
	own, elsewhere := forged(t, filepath.Join(c.Dir, "own")), forged(t, filepath.Join(outside, "elsewhere"))
	secret, fifo := forged(t, filepath.Join(c.Dir, "secret")), forged(t, filepath.Join(c.Dir, "fifo"))
	kind, number, _ := strings.Cut(elsewhere, ":")
	anyGeneration := kind + ":" + number[:8] + "00000000" // FILEID_INO32_GEN: number, generation
	c.Args = append(c.Args, "own", "locked", "readable", "secret", "sub", "link", "fifo",
		own, elsewhere, anyGeneration, secret, fifo, "bent:own", "cut:own", "named:own", "1:00", "1:")
	stale := handleResult{unix.ESTALE, unix.ESTALE, unix.ESTALE, ""}
	no := handleResult{unix.EOPNOTSUPP, unix.EOPNOTSUPP, unix.EOPNOTSUPP, ""}
	checkHandles(t, runHandles(t, c), map[string]handleResult{
		"own":      {Text: "own"},
		"locked":   {Text: "locked", Write: unix.EACCES},
		"readable": {Text: "readable", Write: unix.EACCES},
		"sub":      {Write: unix.EISDIR},
		"secret":   no, "link": no, "fifo": no,
		own: stale, elsewhere: stale, anyGeneration: stale, secret: stale, fifo: stale,
		"bent:own": stale, "cut:own": stale, "named:own": no,
		"1:00": stale,
		"1:":   {unix.EINVAL, unix.EINVAL, unix.EINVAL, ""},
	})
}

func TestFileHandlesInAMap(t *testing.T) {
	const base = 900000
	c := program(t, "handle")
	c.FileHandles, c.IDMap, c.Dir = true, &IDMap{Base: base, Count: 65536}, filepath.Dir(c.Path)
	makeFile(t, c.Dir, "root", base, base, 0o600)
	makeFile(t, c.Dir, "user", base+1000, base+1000, 0o600)
	makeFile(t, c.Dir, "foreign", 0, 0, 0o644)
	foreign := forged(t, filepath.Join(c.Dir, "foreign"))
	c.Args = append(c.Args, "root", "user", "foreign", foreign)
	checkHandles(t, runHandles(t, c), map[string]handleResult{
		"root":    {Text: "root", Write: unix.EROFS},
		"user":    {Text: "user", Write: unix.EROFS},
		"foreign": {unix.EOPNOTSUPP, unix.EOPNOTSUPP, unix.EOPNOTSUPP, ""},
		foreign:   {unix.ESTALE, unix.ESTALE, unix.ESTALE, ""},
	})
}

func TestSupervisorHasOneCapability(t *testing.T) {
	for _, idMap := range []*IDMap{nil, {Base: 900000, Count: 65536}} {
		c := program(t, "sleep")
		c.FileHandles, c.IDMap = true, idMap
		p := start(t, c)
		uid, _ := c.hostIDs()
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.ID().PID))
		if err != nil || len(tasks) < 2 {
			t.Fatalf("threads %v, %v", tasks, err)
		}
		for _, path := range tasks {
			status := readStatus(t, path)
			if status["Uid"] != fmt.Sprintf("%d %[1]d %[1]d %[1]d", uid) || status["CapPrm"] != "0000000000000004" ||
				status["CapEff"] != none || status["CapBnd"] != none || status["NoNewPrivs"] != "1" {
				t.Errorf("%s: %v", path, status)
			}
		}
		program := groupMembers(p.ID().PID)
		if len(program) != 1 {
			t.Fatalf("processes of the group: %v", program)
		}
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	}
}

func TestProgramEndsWithItsSupervisor(t *testing.T) {
	c := program(t, "stubborn")
	c.FileHandles = true
	p := start(t, c)
	waitLog(t, c.LogPath, "up")
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait(t, p)
	if err := waitGroupGone(p.ID().PID, killTimeout); err != nil {
		t.Error(err)
	}
}

func TestSupervisorPassesExitAndSignals(t *testing.T) {
	c := program(t, "exit7")
	c.FileHandles = true
	if exit := wait(t, start(t, c)); exit.Code != 7 {
		t.Errorf("exit %s", exit)
	}
	c = program(t, "sleep")
	c.FileHandles = true
	p := start(t, c)
	waitLog(t, c.LogPath, "up")
	if err := p.Stop(t.Context(), killTimeout); err != nil || p.Exit().Code != 128+15 {
		t.Errorf("%v, %s", err, p.Exit())
	}
}
