package faults

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bield/test/host"
)

// Rounds of TestLeaks, and how many before them fill what fills but once.
const (
	leakRounds = 200
	leakWarmUp = 40
)

// usage is what a daemon has of things that leak.
type usage struct {
	Goroutines int    `json:"goroutines"`
	HeapBytes  int    `json:"heapBytes"`
	Stacks     string `json:"stacks"`
	files      []string
	threads    int
	residentKB int
}

func (u usage) String() string {
	return fmt.Sprintf("%d files, %d goroutines, %d threads, heap %d KB, resident %d KB",
		len(u.files), u.Goroutines, u.threads, u.HeapBytes>>10, u.residentKB)
}

// TestLeaks brings a VM up and down again and again: what the daemon uses does
// not grow.
func TestLeaks(t *testing.T) {
	host.Require(t)
	t.Parallel()
	rounds, warmUp := leakRounds, leakWarmUp
	if testing.Short() {
		rounds, warmUp = 10, 5
	}
	h := machineFor(t, "", 10*time.Minute)
	defer h.End(t)
	stats := filepath.Join(h.Work, "stats")
	must(t, h.StartDaemon(map[string]string{"BIELD_FAULT_STATS": stats}))
	cycle := func(n int) {
		for range n {
			must(t, upOf("one")(h))
			must(t, downOf("one")(h))
		}
	}
	cycle(warmUp)
	before, err := measure(h, stats)
	must(t, err)
	cycle(rounds)
	var after usage
	// What ends a moment after a call, ends: a goroutine, a connection.
	host.WaitFor(host.Patience, func() bool {
		after, err = measure(h, stats)
		return err != nil || len(after.files) <= len(before.files) && after.Goroutines <= before.Goroutines
	})
	must(t, err)
	t.Logf("after %d rounds: %s\nafter %d more: %s", warmUp, before, rounds, after)
	if len(after.files) > len(before.files) {
		t.Errorf("open files:\n%s", strings.Join(after.files, "\n"))
	}
	if after.Goroutines > before.Goroutines {
		t.Errorf("goroutines:\n%s", after.Stacks)
	}
	// Go keeps the threads that it has made: one more may be there for a system
	// call that took longer than any before.
	if after.threads > before.threads+4 {
		t.Errorf("threads: %d, were %d", after.threads, before.threads)
	}
	// 2 KiB a round.
	if after.HeapBytes > before.HeapBytes+rounds<<11 {
		t.Errorf("heap: %d bytes, was %d", after.HeapBytes, before.HeapBytes)
	}
	if after.residentKB > before.residentKB*5/4+4<<10 {
		t.Errorf("resident: %d KB, was %d", after.residentKB, before.residentKB)
	}
}

// measure asks the daemon and /proc.
func measure(h *host.Host, stats string) (usage, error) {
	var u usage
	pid, err := h.DaemonPID()
	if err != nil {
		return u, err
	}
	if err := os.RemoveAll(stats); err != nil {
		return u, err
	}
	if err := unix.Kill(pid, unix.SIGUSR1); err != nil {
		return u, err
	}
	var data []byte
	if !host.WaitFor(host.Patience, func() bool { data, err = os.ReadFile(stats); return err == nil }) {
		return u, err
	}
	if err := json.Unmarshal(data, &u); err != nil {
		return u, err
	}
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return u, err
	}
	for _, e := range entries {
		target, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, e.Name()))
		u.files = append(u.files, e.Name()+" "+target)
	}
	u.threads, u.residentKB, err = status(pid)
	return u, err
}

// status reads /proc/PID/status (proc_pid_status(5)).
func status(pid int) (threads, residentKB int, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		switch fields[0] {
		case "Threads:":
			threads, err = strconv.Atoi(fields[1])
		case "VmRSS:":
			residentKB, err = strconv.Atoi(fields[1])
		}
		if err != nil {
			return 0, 0, err
		}
	}
	return threads, residentKB, nil
}
