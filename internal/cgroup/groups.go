package cgroup

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Groups are the groups of one bield. Its methods may be called at once.
type Groups struct {
	Host Host
	// Owner is the mark of one bield: see Owner.
	Owner string

	mu sync.Mutex // one group is made or removed at a time: they share the one above
}

// Owner marks the groups of the bield with that mark of its run directory in the
// calling thread's network namespace: containers may see one tree of groups and
// have run directories of the same name.
func Owner(run string) string {
	ns, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return run
	}
	return run + " in " + ns
}

func (g *Groups) base() string {
	return fmt.Sprintf(basePrefix+"%x", sha256.Sum256([]byte(g.Owner)))[:len(basePrefix)+8]
}

const basePrefix = "bield-"

// vmPrefix keeps a VM's name from being that of a file of the kernel's.
const vmPrefix = "vm-"

// Group is a VM's group: its folder in each hierarchy, in order. It may be
// written down; an empty one is none.
type Group []string

// Of names the group of a VM, which need not exist.
func (g *Groups) Of(vm string) (Group, error) {
	places, err := g.Host.find()
	if err != nil {
		return nil, err
	}
	var group Group
	for _, p := range places {
		group = append(group, filepath.Join(p.parent, g.base(), vmPrefix+vm))
	}
	slices.Sort(group)
	return slices.Compact(group), nil
}

// Make makes a VM's group, as Of names it, with its limits. Where that fails
// nothing is left.
func (g *Groups) Make(ctx context.Context, group Group, l Limits) error {
	places, err := g.Host.find()
	if err == nil {
		err = g.make(places, group, l)
	}
	if err != nil {
		return fmt.Errorf("make a control group: %w", errors.Join(err, g.Remove(context.WithoutCancel(ctx), group)))
	}
	return nil
}

func (g *Groups) make(places map[Controller]place, group Group, l Limits) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for p, offered := range byPlace(places) {
		base := filepath.Join(p.parent, g.base())
		i := slices.IndexFunc(group, func(dir string) bool { return filepath.Dir(dir) == base })
		if i < 0 {
			return fmt.Errorf("the group is not where %v are: %v", offered, group)
		}
		if err := p.makeBase(base, offered); err != nil {
			return err
		}
		if err := makeDir(group[i]); err != nil {
			return err
		}
		for _, c := range offered {
			if err := apply(group[i], l.settings(c, p.version)); err != nil {
				return err
			}
		}
	}
	return nil
}

func byPlace(places map[Controller]place) map[place][]Controller {
	by := map[place][]Controller{}
	for _, c := range controllers() {
		if p, has := places[c]; has {
			by[p] = append(by[p], c)
		}
	}
	return by
}

// makeBase makes the group above those of VMs.
func (p place) makeBase(base string, offered []Controller) error {
	if p.version == 2 {
		if err := enable(p.parent, offered); err != nil {
			return fmt.Errorf("turn on %v for groups below %s: %w", offered, p.parent, err)
		}
	}
	if err := makeDir(base); err != nil {
		return err
	}
	if slices.Contains(offered, CPU) && p.among {
		if err := apply(base, []setting{p.weight()}); err != nil {
			return err
		}
	}
	if p.version == 2 {
		return enable(base, offered)
	}
	return nil
}

// weight is that of bield's group beside single processes of the host: as much as
// one of them for each processor, so that VMs get their part and leave theirs.
func (p place) weight() setting {
	if p.version == 2 {
		return setting{"cpu.weight", strconv.Itoa(min(maxWeight, weightV2*runtime.NumCPU())), true}
	}
	return setting{"cpu.shares", strconv.Itoa(sharesV1 * runtime.NumCPU()), true}
}

// enable turns controllers of version 2 on for the children of a group.
func enable(dir string, wanted []Controller) error {
	path := filepath.Join(dir, "cgroup.subtree_control")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	on := strings.Fields(string(text))
	var orders []string
	for _, c := range wanted {
		if !slices.Contains(on, string(c)) {
			orders = append(orders, "+"+string(c))
		}
	}
	if len(orders) == 0 {
		return nil
	}
	return write(path, strings.Join(orders, " "))
}

func makeDir(path string) error {
	err := os.Mkdir(path, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// ErrForeign says that a group is not this bield's.
var ErrForeign = errors.New("it is not this bield's")

// Remove kills what is in a group, removes it, and the one above it once that is
// empty. A group that is not there is
// no error; one that is not this bield's is left alone, with an ErrForeign.
func (g *Groups) Remove(ctx context.Context, group Group) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var errs []error
	for _, dir := range group {
		if filepath.Base(filepath.Dir(dir)) != g.base() || !strings.HasPrefix(filepath.Base(dir), vmPrefix) {
			errs = append(errs, fmt.Errorf("remove control group %s: %w", dir, ErrForeign))
			continue
		}
		if err := empty(ctx, dir); err != nil {
			errs = append(errs, fmt.Errorf("remove control group %s: %w", dir, err))
		}
		// As long as other VMs have groups there it stays.
		_ = syscall.Rmdir(filepath.Dir(dir))
	}
	return errors.Join(errs...)
}

// Sweep removes all groups of this bield's, but those that are kept: an earlier
// daemon's of which no record is left.
func (g *Groups) Sweep(ctx context.Context, keep []Group) error {
	places, err := g.Host.find()
	if errors.Is(err, ErrNone) {
		return nil
	}
	kept := slices.Concat(keep...)
	var stale Group
	for _, p := range places {
		entries, err := os.ReadDir(filepath.Join(p.parent, g.base()))
		if err != nil {
			continue
		}
		for _, e := range entries {
			dir := filepath.Join(p.parent, g.base(), e.Name())
			if e.IsDir() && strings.HasPrefix(e.Name(), vmPrefix) && !slices.Contains(kept, dir) && !slices.Contains(stale, dir) {
				stale = append(stale, dir)
			}
		}
	}
	return g.Remove(ctx, stale)
}

const (
	removeTimeout = 10 * time.Second
	removePause   = 2 * time.Millisecond
)

// empty ends all in a group and removes it. Version 1 tells nobody of the end of a
// group's last process, and a dying one holds its group for a moment in either:
// trying is all there is.
func empty(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	// Nothing in it can fork any more.
	_ = write(filepath.Join(dir, "pids.max"), "0")
	for {
		err := syscall.Rmdir(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) {
			return err
		}
		if err := kill(dir); err != nil {
			return err
		}
		select {
		case <-time.After(removePause):
		case <-ctx.Done():
			return fmt.Errorf("%w: processes %v are still there", err, members(dir))
		}
	}
}

// kill sends SIGKILL to all in a group.
func kill(dir string) error {
	if err := write(filepath.Join(dir, "cgroup.kill"), "1"); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, pid := range members(dir) {
		if err := killMember(dir, pid); err != nil {
			return err
		}
	}
	return nil
}

// killMember kills a process, unless its number has gone to one outside of the
// group meanwhile: a handle is taken first, and then looked at.
func killMember(dir string, pid int) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	defer func() { _ = p.Release() }()
	if !slices.Contains(members(dir), pid) {
		return nil
	}
	if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end process %d: %w", pid, err)
	}
	return nil
}

// members lists the processes of a group. One that this process can't see, in
// another pid namespace, is 0: it is left out.
func members(dir string) []int {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil
	}
	var pids []int
	for field := range bytes.FieldsSeq(text) {
		if pid, err := strconv.Atoi(string(field)); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// OOMKills is how many processes of a group the kernel has ended at its limit of
// memory, as far as it counts them.
func (g Group) OOMKills() int {
	kills := 0
	for _, dir := range g {
		for _, file := range []string{"memory.events", "memory.oom_control"} {
			kills = cmp.Or(kills, counter(filepath.Join(dir, file), "oom_kill"))
		}
	}
	return kills
}

// counter reads a line "NAME N" of a file.
func counter(path, name string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(value))
			return n
		}
	}
	return 0
}
