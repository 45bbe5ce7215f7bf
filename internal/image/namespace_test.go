package image

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"bield/internal/spec"
)

// TestProgramOutlivesThreads: other goroutines may lock the thread that started
// a program, and end with it; the program goes on.
func TestProgramOutlivesThreads(t *testing.T) {
	require(t, os.Geteuid() == 0, "needs root")
	cmd := namespaced(t.Context(), spec.ImageUIDBase, spec.ImageUIDCount, "sh", "-c", "read line")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	err = runTied(cmd, func() {
		for range 200 {
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				runtime.LockOSThread() // never unlocked: the thread ends
			}()
			<-ended
		}
		_, _ = io.WriteString(in, "go on\n")
	})
	if err != nil {
		t.Error(err)
	}
}

// TestProgramEndsWithItsStarter kills a process like the daemon: all that its
// program started must end, which shows when nobody holds their output any more.
func TestProgramEndsWithItsStarter(t *testing.T) {
	require(t, os.Geteuid() == 0, "needs root")
	const asStarter = "BIELD_TEST_STARTER"
	if os.Getenv(asStarter) != "" {
		cmd := namespaced(t.Context(), spec.ImageUIDBase, spec.ImageUIDCount, "sh", "-c",
			"trap '' TERM INT HUP; setsid sleep 86397 & echo up; wait")
		cmd.Stdout = os.Stdout
		t.Fatal(runTied(cmd, nil))
	}
	starter := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestProgramEndsWithItsStarter$")
	starter.Env = append(os.Environ(), asStarter+"=1")
	out, err := starter.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := starter.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); err != nil || line != "up\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if err := starter.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, lines)
		gone <- err
	}()
	select {
	case err := <-gone:
		if err != nil {
			t.Error(err)
		}
		_ = starter.Wait()
	case <-time.After(20 * time.Second):
		t.Errorf("still running: %v", processesWith(t, "sleep\x0086397"))
	}
}
