package faults

import (
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"bield/test/host"
)

func TestMain(m *testing.M) { host.Main(m, nil) }

// machine makes the machine of a short test, which then owns its thread. file is
// its configuration, "" for the usual one.
func machine(t *testing.T, file string) *host.Host { return machineFor(t, file, time.Minute) }

// machineFor kills all that the machine runs after a time, so that its test fails
// where it stands.
func machineFor(t *testing.T, file string, timeout time.Duration) *host.Host {
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	// A short path: the sockets below it have at most 107 bytes.
	work, err := os.MkdirTemp(host.Base(), "m")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(work) })
	must(t, os.Chmod(work, 0o755))
	h, err := host.New(work)
	if err == nil && file != "" {
		err = h.Declare(file)
	}
	if err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(timeout, h.KillAll)
	t.Cleanup(func() { late.Stop() })
	return h
}

// clean waits until nothing is left.
func clean(t *testing.T, h *host.Host) {
	t.Helper()
	if !host.WaitFor(host.Patience, func() bool { return len(h.Leftovers()) == 0 }) {
		t.Errorf("left: %s", strings.Join(h.Leftovers(), "; "))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
