package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestHandlesAmongSignals: Go's runtime interrupts its threads by signals. See
// notifGiveFD.
func TestHandlesAmongSignals(t *testing.T) {
	c := program(t, "handle-loop")
	c.FileHandles, c.Dir = true, filepath.Dir(c.Path)
	makeFile(t, c.Dir, "one", testUID, testGID, 0o600)
	forged(t, filepath.Join(c.Dir, "one")) // or skip
	p := start(t, c)
	interruptUntilDone(t, p)
	if exit := wait(t, p); exit != (Exit{Known: true}) {
		t.Errorf("%s: %q", exit, TailLog(c.LogPath, 5))
	}
	if text, err := os.ReadFile(c.LogPath); err != nil || strings.TrimSpace(string(text)) != "0 wrong" {
		t.Errorf("%q, %v", text, err)
	}
}

// interruptUntilDone sends every thread of the process the signal that Go
// preempts with, again and again.
func interruptUntilDone(t *testing.T, p *Process) {
	t.Helper()
	pid := p.ID().PID
	for {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return
		}
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			if err != nil {
				t.Fatal(err)
			}
			select {
			case <-p.Done():
				return
			default:
				_ = unix.Tgkill(pid, tid, unix.SIGURG)
			}
		}
	}
}

// playHandleLoop opens a file by its handle many times and counts what is another.
func playHandleLoop() {
	mount, _ := unix.Open(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	handle, errno := askHandle("one")
	if errno != 0 {
		fmt.Println(errno)
		return
	}
	var want, got unix.Stat_t
	_ = unix.Stat("one", &want)
	wrong := 0
	for range 5000 {
		fd, err := unix.OpenByHandleAt(mount, handle, unix.O_RDONLY)
		if err != nil {
			fmt.Println(err)
			return
		}
		if _ = unix.Fstat(fd, &got); fd < 3 || got.Ino != want.Ino {
			wrong++
			continue
		}
		unix.Close(fd)
	}
	fmt.Println(wrong, "wrong")
}
