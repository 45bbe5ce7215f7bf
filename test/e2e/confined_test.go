package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"bield/internal/spec"
)

// limits are those of the VM's control group, as inspect has them.
func (v *vm) limits(t *testing.T) *spec.Limits {
	t.Helper()
	var i spec.Inspection
	if err := json.Unmarshal([]byte(v.h.bield(t, "inspect", v.name)), &i); err != nil {
		t.Fatal(err)
	}
	if i.Limits == nil {
		if os.Getenv("BIELD_TEST_REQUIRE") == "1" {
			t.Fatal("required, but this machine has no control groups to use")
		}
		t.Log("this machine has no control groups to use: no limits to look at")
	}
	return i.Limits
}

// grouped holds all processes of the VM, and nothing else, to be in its control
// group, within its limits.
func (v *vm) grouped(t *testing.T, all []proc) {
	t.Helper()
	limits := v.limits(t)
	if limits == nil {
		return
	}
	var pids []string
	for _, p := range all {
		if !strings.HasSuffix(strings.TrimSpace(p.command), "bieldd egress") { // it is the host's
			pids = append(pids, fmt.Sprint(p.pid))
		}
	}
	slices.Sort(pids)
	for _, group := range limits.Groups {
		want(t, "processes of "+group, strings.Join(slices.Sorted(strings.FieldsSeq(read(t, filepath.Join(group, "cgroup.procs")))), " "), strings.Join(pids, " "))
	}
	memory := number(t, limits.Groups, "memory.max", "memory.limit_in_bytes")
	if want := limits.MemoryMiB << 20; memory != want || limits.MemoryMiB < spec.DefaultMemoryMiB {
		t.Errorf("its group may use %d bytes of memory, inspect says %d", memory, want)
	}
	if processes := number(t, limits.Groups, "pids.max"); processes != limits.Processes {
		t.Errorf("its group may have %d processes, inspect says %d", processes, limits.Processes)
	}
	if used := number(t, limits.Groups, "pids.current"); used < len(all) || used > limits.Processes/2 {
		t.Errorf("%d processes and threads of at most %d", used, limits.Processes)
	}
}

// ungrouped holds nothing to be left of the groups.
func ungrouped(t *testing.T, limits *spec.Limits) {
	t.Helper()
	if limits == nil {
		return
	}
	for _, group := range limits.Groups {
		if _, err := os.Stat(filepath.Dir(group)); err == nil {
			t.Errorf("a control group is left: %s", filepath.Dir(group))
		}
	}
}

// number is what the first of those files says that is there.
func number(t *testing.T, groups []string, files ...string) int {
	t.Helper()
	for _, group := range groups {
		for _, file := range files {
			text, err := os.ReadFile(filepath.Join(group, file))
			if err != nil {
				continue
			}
			n, err := strconv.Atoi(strings.TrimSpace(string(text)))
			if err != nil {
				t.Errorf("%s: %v", file, err)
			}
			return n
		}
	}
	t.Errorf("none of %v is in %v", files, groups)
	return 0
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}
