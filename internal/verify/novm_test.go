package verify

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bield/internal/probe"
)

// TestNoVM takes the VM itself away: on the host, as in a container that has its
// rights, the attempts to find its kernel, processes and disks all succeed.
func TestNoVM(t *testing.T) {
	disks := readableDisks(t)
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	command, err := os.ReadFile("/proc/self/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	cookie := fmt.Sprintf("novm%d", os.Getpid())
	b := &builder{Facts: Facts{Cookie: cookie, BootID: string(boot), PID: os.Getpid(), CommandLine: command, Disks: disks},
		plan: Plan{Prefix: Prefix(cookie)}}
	b.machine()
	holes := map[string]bool{}
	for _, r := range b.plan.Judge(Evidence{Results: carryOut(t, b.plan.Orders)}) {
		t.Logf("%v %s: %s", r.Hole, r.Attempt, r.Got)
		holes[r.Attempt] = r.Hole
	}
	names := []string{"/proc is of another kernel", "the host's processes in /proc", "disks"}
	for _, d := range disks {
		names = append(names, fmt.Sprintf("the host's disk %s, by a node %d:%d", d.Name, d.Major, d.Minor))
	}
	for _, name := range names {
		if !holes[name] {
			t.Errorf("no hole found in %q", name)
		}
	}
}

// readableDisks are those of the host's that root may read, and that begin with
// something: a device cgroup can leave none.
func readableDisks(t *testing.T) []Disk {
	t.Helper()
	var list []Disk
	numbers, _ := filepath.Glob("/sys/block/*/dev")
	for _, path := range numbers {
		d := Disk{Name: filepath.Base(filepath.Dir(path)), Start: make([]byte, probe.MaxData)}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscanf(string(text), "%d:%d", &d.Major, &d.Minor); err != nil {
			t.Fatalf("%s: %q: %v", path, text, err)
		}
		f, err := os.Open("/dev/" + d.Name)
		if err == nil {
			_, err = io.ReadFull(f, d.Start)
			_ = f.Close()
		}
		if err == nil && len(bytes.Trim(d.Start, "\x00")) > 0 {
			list = append(list, d)
			continue
		}
		t.Logf("%s: not compared with (%v)", d.Name, err)
	}
	return list
}

// carryOut has the probe do the orders here.
func carryOut(t *testing.T, orders []probe.Order) map[int]Result {
	t.Helper()
	batch, err := json.Marshal(orders)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := probe.Run(bytes.NewReader(batch), &out); err != nil {
		t.Fatal(err)
	}
	results := map[int]Result{}
	for lines := json.NewDecoder(strings.NewReader(out.String())); ; {
		var r Result
		if err := lines.Decode(&r); errors.Is(err, io.EOF) {
			return results
		} else if err != nil {
			t.Fatal(err)
		}
		results[r.ID] = r
	}
}
