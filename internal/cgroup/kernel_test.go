package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"bield/internal/process"
)

const testUID = 54321

// groups are those of a bield of the test's own, which leaves none.
func groups(t *testing.T) *Groups {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "needs root")
	}
	g := &Groups{Owner: "bield " + t.TempDir()}
	group, err := g.Of("any")
	if err != nil {
		skip(t, err.Error())
	}
	if err := g.Make(t.Context(), group, LimitsOf(VM{MemoryMiB: 64, VCPU: 1})); err != nil {
		skip(t, err.Error())
	}
	t.Cleanup(func() {
		if err := errors.Join(g.Remove(context.Background(), group), g.Sweep(context.Background(), nil)); err != nil {
			t.Error(err)
		}
		for _, dir := range group {
			if _, err := os.Stat(filepath.Dir(dir)); err == nil {
				t.Errorf("%s is left", filepath.Dir(dir))
			}
		}
	})
	return g
}

func skip(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("BIELD_TEST_REQUIRE") == "1" {
		t.Fatal("required, but ", reason)
	}
	t.Skip(reason)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// made is a new group with limits.
func made(t *testing.T, g *Groups, name string, l Limits) Group {
	t.Helper()
	group, err := g.Of(name)
	must(t, err)
	must(t, g.Make(t.Context(), group, l))
	return group
}

// start starts a part in a group.
func start(t *testing.T, group Group, part string) (p *process.Process, log string) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "bield-cgroup-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	self, err := os.ReadFile("/proc/self/exe")
	must(t, errors.Join(err, os.Chmod(dir, 0o755)))
	program := filepath.Join(dir, "program")
	must(t, errors.Join(os.WriteFile(program, self, 0o755), os.Chmod(program, 0o755)))
	log = filepath.Join(t.TempDir(), "log")
	p, err = process.Start(t.Context(), process.Command{
		Path: program, Args: []string{"play", part}, UID: testUID, GID: testUID, LogPath: log, Cgroups: group,
	})
	must(t, err)
	t.Cleanup(func() { _ = p.Kill() })
	return p, log
}

func waitLine(t *testing.T, log, prefix string) string {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		for _, line := range process.TailLog(log, 20) {
			if rest, ok := strings.CutPrefix(line, prefix); ok {
				return rest
			}
		}
	}
	t.Fatalf("no line %q: %q", prefix, process.TailLog(log, 20))
	return ""
}

func ended(t *testing.T, p *process.Process) process.Exit {
	t.Helper()
	select {
	case <-p.Done():
		return p.Exit()
	case <-time.After(20 * time.Second):
		t.Fatal("it did not end")
		return process.Exit{}
	}
}

// TestMembers: a program is in its group from its start, and Remove ends it, and
// may be asked again.
func TestMembers(t *testing.T) {
	g := groups(t)
	group := made(t, g, "one", LimitsOf(VM{MemoryMiB: 64, VCPU: 1}))
	p, log := start(t, group, "sleep")
	waitLine(t, log, "up")
	for _, dir := range group {
		if m := members(dir); !slices.Equal(m, []int{p.ID().PID}) {
			t.Errorf("%s has %v, not %d", dir, m, p.ID().PID)
		}
	}
	must(t, g.Make(t.Context(), group, LimitsOf(VM{MemoryMiB: 64, VCPU: 1}))) // again
	must(t, g.Remove(t.Context(), group))
	if exit := ended(t, p); exit.Signal != syscall.SIGKILL {
		t.Errorf("it ended by %s", exit)
	}
	must(t, g.Remove(t.Context(), group))
	if err := g.Remove(t.Context(), Group{filepath.Dir(group[0])}); err == nil {
		t.Error("what is no VM's group was removed")
	}
	other := Groups{Owner: "bield of another"}
	if err := other.Remove(t.Context(), made(t, g, "two", Limits{MemoryMiB: 64, SwapMiB: 64, Processes: 9, CPUs: 1})); err == nil {
		t.Error("another bield's group was removed")
	}
	kept := made(t, g, "three", Limits{MemoryMiB: 64, SwapMiB: 64, Processes: 9, CPUs: 1})
	must(t, g.Sweep(t.Context(), []Group{kept}))
	for _, dir := range kept {
		names, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "vm-*"))
		if err != nil || len(names) != 1 || names[0] != dir {
			t.Errorf("after the sweep: %v %v", names, err)
		}
	}
	must(t, g.Remove(t.Context(), kept))
}

// TestMemoryHog: who takes too much is ended, and nobody else.
func TestMemoryHog(t *testing.T) {
	g := groups(t)
	free, log := start(t, nil, "hog")
	waitLine(t, log, "took 512") // without a group it may
	limits := Limits{MemoryMiB: 128, SwapMiB: 0, Processes: 100, CPUs: 1}
	one, two := made(t, g, "one", limits), made(t, g, "two", limits)
	if len(one) > 0 && number(one, "memory.max", "memory.limit_in_bytes") != 128<<20 {
		skip(t, "no memory controller")
	}
	neighbour, log := start(t, two, "sleep")
	waitLine(t, log, "up")
	hog, _ := start(t, one, "hog")
	if exit := ended(t, hog); exit.Signal != syscall.SIGKILL {
		t.Errorf("the hog ended by %s", exit)
	}
	if one.OOMKills() == 0 || two.OOMKills() != 0 {
		t.Errorf("ended at the limit: %d and %d", one.OOMKills(), two.OOMKills())
	}
	for _, p := range []*process.Process{free, neighbour} {
		select {
		case <-p.Done():
			t.Errorf("another was ended too: %s", p.Exit())
		default:
		}
	}
	must(t, errors.Join(g.Remove(t.Context(), one), g.Remove(t.Context(), two)))
}

// TestForkBomb: processes are bounded, and none escapes its group's end.
func TestForkBomb(t *testing.T) {
	g := groups(t)
	wide := made(t, g, "wide", Limits{MemoryMiB: 512, SwapMiB: 0, Processes: 1000, CPUs: 1})
	_, log := start(t, wide, "bomb")
	waitLine(t, log, "started 200") // it may where that is not forbidden
	must(t, g.Remove(t.Context(), wide))
	limits := Limits{MemoryMiB: 512, SwapMiB: 0, Processes: 40, CPUs: 1}
	group := made(t, g, "one", limits)
	if number(group, "pids.max") != 40 {
		skip(t, "no pids controller")
	}
	bomb, log := start(t, group, "bomb")
	text := waitLine(t, log, "refused after ")
	if n, err := strconv.Atoi(strings.Split(text, ":")[0]); err != nil || n == 0 || n > 40 {
		t.Errorf("refused after %s", text)
	}
	var pids []int
	for _, dir := range group {
		pids = members(dir)
	}
	must(t, g.Remove(t.Context(), group))
	ended(t, bomb)
	for _, pid := range pids {
		if state, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && len(state) > 0 {
			t.Errorf("process %d outlived its group: %q", pid, state)
		}
	}
}

// TestKillV2 ends a group by cgroup.kill, where version 2 is mounted, with or
// without controllers.
func TestKillV2(t *testing.T) {
	if os.Geteuid() != 0 {
		skip(t, "needs root")
	}
	mounts, err := Host{}.mounts()
	must(t, err)
	i := slices.IndexFunc(mounts, func(m mount) bool { return m.version == 2 && m.usable() == nil })
	if i < 0 {
		skip(t, "no writable version 2")
	}
	g := &Groups{Owner: "bield " + t.TempDir()}
	group := Group{filepath.Join(mounts[i].at, g.base(), vmPrefix+"one")}
	must(t, os.MkdirAll(group[0], 0o755))
	p, log := start(t, group, "sleep")
	waitLine(t, log, "up")
	if m := members(group[0]); !slices.Equal(m, []int{p.ID().PID}) {
		t.Errorf("members %v", m)
	}
	must(t, g.Remove(t.Context(), group))
	if exit := ended(t, p); exit.Signal != syscall.SIGKILL {
		t.Errorf("it ended by %s", exit)
	}
	if _, err := os.Stat(filepath.Dir(group[0])); err == nil {
		t.Error("the group above is left")
	}
}

// number is what the first of those files says that is there.
func number(group Group, files ...string) int {
	for _, dir := range group {
		for _, file := range files {
			if text, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
				n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
				return n
			}
		}
	}
	return -1
}
