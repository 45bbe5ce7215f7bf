package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Controller is a kind of limit, by the kernel's name.
type Controller string

// The controllers that are used.
const (
	Memory Controller = "memory"
	Pids   Controller = "pids"
	CPU    Controller = "cpu"
)

func controllers() []Controller { return []Controller{Memory, Pids, CPU} }

// subgroup is what packaging/systemd/bieldd.service gives to DelegateSubgroup=.
const subgroup = "bieldd"

// place is a folder of a hierarchy below which bield's group goes.
type place struct {
	version int
	// parent is the folder, path its hierarchy's mount point.
	parent string
	// among says that the daemon itself, and so perhaps much else, runs in the
	// parent, beside bield's group.
	among bool
}

// Host is where the kernel shows control groups. The zero value is this machine.
type Host struct {
	// Root is "/", but for tests.
	Root string
}

func (h Host) path(name string) string { return filepath.Join("/", h.Root, name) }

// ErrNone says that there are no control groups to use; what wraps it says why.
var ErrNone = errors.New("no control groups")

// find looks for a place for each controller. A host may lack some; one that
// lacks all is an error that wraps ErrNone.
func (h Host) find() (map[Controller]place, error) {
	mounts, err := h.mounts()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	own, err := h.own()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	places := map[Controller]place{}
	var why []error
	for _, m := range mounts {
		if err := m.usable(); err != nil {
			why = append(why, err)
			continue
		}
		for _, c := range m.controllers() {
			if was, has := places[c]; !has || was.version < m.version {
				places[c] = m.place(own)
			}
		}
	}
	if len(places) == 0 {
		return nil, fmt.Errorf("%w: %w", ErrNone, cmpErr(why))
	}
	return places, nil
}

// Describe says which controllers there are and where, as "version 2: memory, pids,
// cpu below /sys/fs/cgroup", and which of ours are lacking. The error wraps ErrNone.
func (h Host) Describe() (found string, lacks []Controller, err error) {
	places, err := h.find()
	if err != nil {
		return "", nil, err
	}
	by := byPlace(places)
	at := slices.SortedFunc(maps.Keys(by), func(a, b place) int { return strings.Compare(a.parent, b.parent) })
	var parts []string
	for _, p := range at {
		parts = append(parts, fmt.Sprintf("version %d: %s below %s", p.version, join(by[p]), p.parent))
	}
	for _, c := range controllers() {
		if _, has := places[c]; !has {
			lacks = append(lacks, c)
		}
	}
	return strings.Join(parts, "; "), lacks, nil
}

func join(list []Controller) string {
	var names []string
	for _, c := range list {
		names = append(names, string(c))
	}
	return strings.Join(names, ", ")
}

func cmpErr(why []error) error {
	if len(why) == 0 {
		return errors.New("no hierarchy with memory, pids or cpu is mounted below /sys/fs/cgroup")
	}
	return errors.Join(why...)
}

// mount is a hierarchy as this process sees it.
type mount struct {
	version int
	// root is which group is mounted, by its path in the hierarchy; at where.
	root, at string
	readOnly bool
	// options are of version 1, its controllers among them.
	options []string
}

// mounts reads proc_pid_mountinfo(5).
func (h Host) mounts() ([]mount, error) {
	text, err := os.ReadFile(h.path("proc/thread-self/mountinfo"))
	if err != nil {
		return nil, err
	}
	at := map[string]mount{} // the last on a path is the one that is seen
	for line := range strings.Lines(string(text)) {
		before, after, _ := strings.Cut(line, " - ")
		first, second := strings.Fields(before), strings.Fields(after)
		if len(first) < 6 || len(second) < 3 {
			continue
		}
		version, known := map[string]int{"cgroup2": 2, "cgroup": 1}[second[0]]
		if !known {
			continue
		}
		flags := append(strings.Split(first[5], ","), strings.Split(second[2], ",")...)
		at[first[4]] = mount{version: version, root: first[3], at: h.path(first[4]),
			readOnly: slices.Contains(flags, "ro"), options: flags}
	}
	var list []mount
	for _, path := range slices.Sorted(maps.Keys(at)) {
		list = append(list, at[path])
	}
	return list, nil
}

// own is the group of this process in each hierarchy, by its controllers' names;
// that of version 2 by "".
func (h Host) own() (map[string]string, error) {
	text, err := os.ReadFile(h.path("proc/thread-self/cgroup"))
	if err != nil {
		return nil, err
	}
	own := map[string]string{}
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		for name := range strings.SplitSeq(fields[1], ",") {
			own[name] = fields[2]
		}
	}
	return own, nil
}

// controllers lists those of ours that the hierarchy offers.
func (m mount) controllers() []Controller {
	offered := m.options
	if m.version == 2 {
		text, err := os.ReadFile(filepath.Join(m.at, "cgroup.controllers"))
		if err != nil {
			return nil
		}
		offered = strings.Fields(string(text))
	}
	return slices.DeleteFunc(controllers(), func(c Controller) bool { return !slices.Contains(offered, string(c)) })
}

// usable says why no group can be made there: of a hierarchy that matters, but
// for one that another mount covers.
func (m mount) usable() error {
	if _, err := os.Stat(filepath.Join(m.at, "cgroup.procs")); err != nil {
		return fmt.Errorf("%s is not to be seen: %w", m.at, err)
	}
	if m.readOnly || errors.Is(unix.Access(m.at, unix.W_OK), unix.EROFS) {
		return fmt.Errorf("%s is mounted read-only, as in most containers", m.at)
	}
	return nil
}

func (m mount) place(own map[string]string) place {
	p := place{version: m.version, parent: m.at}
	if m.version == 2 {
		daemon, known := m.below(own[""])
		if known && filepath.Base(daemon) == subgroup {
			p.parent = filepath.Dir(daemon)
		}
		p.among = daemon == p.parent
		return p
	}
	for _, c := range m.controllers() {
		if daemon, known := m.below(own[string(c)]); known {
			p.parent, p.among = daemon, true
		}
	}
	return p
}

// below is where a group of the hierarchy is seen, if it is.
func (m mount) below(group string) (string, bool) {
	rest, err := filepath.Rel(m.root, group)
	if err != nil || rest == ".." || strings.HasPrefix(rest, "../") {
		return "", false
	}
	path := filepath.Join(m.at, rest)
	_, err = os.Stat(path)
	return path, err == nil
}
