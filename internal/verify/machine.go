package verify

import (
	"bytes"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"bield/internal/probe"
)

const (
	catMachine   = "machine"
	catLeftovers = "leftovers"
)

// machine looks for the host's kernel, processes, disks and devices.
func (b *builder) machine() {
	b.unlike("/proc is of another kernel", probe.Order{Verb: probe.Read, Path: "/proc/sys/kernel/random/boot_id"}, []byte(b.BootID))
	b.unlike("the host's processes in /proc", probe.Order{Verb: probe.Read, Path: fmt.Sprintf("/proc/%d/cmdline", b.PID)}, b.CommandLine)
	for i, d := range b.Disks[:min(len(b.Disks), maxTargets)] {
		b.disk(i, d)
	}
	b.vsock()
	b.listed("disks", "/sys/block/*/size", b.expectedDisks())
	b.listed("virtio-serial ports", "/sys/class/virtio-ports/*/name", func(_, name string) bool {
		return name == "" || slices.Contains(b.VirtioPorts, name)
	})
	b.firmware()
	b.devices()
}

// unlike reads what must not be as it is on the host.
func (b *builder) unlike(name string, o probe.Order, hosts []byte) {
	id := b.order(o)
	hosts = bytes.TrimSpace(hosts)
	b.add(attempt{category: catMachine, name: name, expected: "not the host's", judge: func(e Evidence) verdict {
		r := e.Results[id]
		switch {
		case r.Outcome == "" || len(hosts) == 0:
			return verdict{got: "nothing to compare with", unchecked: true}
		case r.Outcome != probe.OK:
			return verdict{got: r.Outcome}
		case bytes.Equal(bytes.TrimSpace(r.Data), hosts[:min(len(hosts), probe.MaxData)]):
			return verdict{got: "the host's", hole: true}
		}
		return verdict{got: "the guest's own"}
	}})
}

// disk makes a node with the numbers of one of the host's and reads it.
func (b *builder) disk(i int, d Disk) {
	full := "/dev/" + b.name(strconv.Itoa(i))
	b.order(probe.Order{Verb: probe.Mknod, Path: full, Mode: unix.S_IFBLK | 0o600, Number: unix.Mkdev(d.Major, d.Minor)})
	id := b.order(probe.Order{Verb: probe.Read, Path: full})
	b.order(probe.Order{Verb: probe.Remove, Path: full})
	b.add(attempt{category: catMachine, name: fmt.Sprintf("the host's disk %s, by a node %d:%d", d.Name, d.Major, d.Minor), expected: "not the host's", judge: func(e Evidence) verdict {
		r := e.Results[id]
		switch {
		case r.Outcome == "":
			return verdict{got: "not tried", unchecked: true}
		case r.Outcome != probe.OK || len(r.Data) == 0:
			return verdict{got: orDone(r)}
		case len(bytes.Trim(d.Start, "\x00")) == 0:
			return verdict{got: "a device, and nothing to compare it with", unchecked: true}
		case bytes.Equal(r.Data, d.Start[:min(len(d.Start), len(r.Data))]):
			return verdict{got: "what the host's disk begins with", hole: true}
		}
		return verdict{got: "the guest's own"}
	}})
}

// maxVsockPort is the last port that is tried: those below 1024 are root's.
const maxVsockPort = 1024

func (b *builder) vsock() {
	id := b.order(probe.Order{Verb: probe.Vsock, Number: maxVsockPort})
	b.add(attempt{category: catMachine, name: fmt.Sprintf("vsock to the host, ports 1 to %d", maxVsockPort), expected: closed, judge: func(e Evidence) verdict {
		r := e.Results[id]
		switch r.Outcome {
		case "":
			return verdict{got: "not tried", unchecked: true}
		case probe.OK:
			return verdict{got: "open: " + strings.TrimSpace(string(r.Data)), hole: true}
		}
		return verdict{got: says(r)}
	}})
}

func (b *builder) expectedDisks() func(path, content string) bool {
	return func(p, size string) bool {
		name := path.Base(path.Dir(p))
		return size == "0" || b.RootOnDisk && name == "vda" ||
			strings.HasPrefix(name, "ram") || strings.HasPrefix(name, "loop") || strings.HasPrefix(name, "zram")
	}
}

// firmware looks for options that the VMM was given for guests.
func (b *builder) firmware() {
	id := b.order(probe.Order{Verb: probe.Firmware})
	b.add(attempt{category: catMachine, name: "options of the host's in fw_cfg", expected: "none but the VM's own", judge: func(e Evidence) verdict {
		r := e.Results[id]
		switch r.Outcome {
		case probe.OK:
		case "ENODEV":
			return verdict{got: "there is no such device"}
		default:
			return verdict{got: orDone(r), unchecked: true}
		}
		var options []string
		for name, content := range lines(r.Data) {
			options = append(options, strings.TrimSpace(name+" "+content))
		}
		slices.Sort(options)
		return verdict{got: joined(options, "none other"), hole: len(options) > 0}
	}})
}

// listed looks at all files that match, and wants each to be expected.
func (b *builder) listed(name, pattern string, expected func(path, content string) bool) {
	id := b.order(probe.Order{Verb: probe.Glob, Path: pattern})
	b.add(attempt{category: catMachine, name: name, expected: "none but the VM's own", judge: func(e Evidence) verdict {
		r := e.Results[id]
		if r.Outcome != probe.OK {
			return verdict{got: orDone(r), unchecked: true}
		}
		var others []string
		for p, content := range lines(r.Data) {
			if !expected(p, content) {
				others = append(others, strings.TrimSpace(p+" "+content))
			}
		}
		slices.Sort(others)
		return verdict{got: joined(others, "none other"), hole: len(others) > 0}
	}})
}

// lines are what a Glob found.
func lines(data []byte) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(string(data)) {
		p, content, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		all[p] = content
	}
	return all
}

// devices counts the virtio devices, by kind.
func (b *builder) devices() {
	id := b.order(probe.Order{Verb: probe.Glob, Path: "/sys/bus/virtio/devices/*/device"})
	b.add(attempt{category: catMachine, name: "virtio devices", expected: "those that the VM was given", judge: func(e Evidence) verdict {
		r := e.Results[id]
		if r.Outcome != probe.OK || len(r.Data) == 0 {
			return verdict{got: orDone(r), unchecked: true}
		}
		count := map[int]int{}
		for _, content := range lines(r.Data) {
			kind, err := strconv.ParseInt(content, 0, 32)
			if err != nil {
				return verdict{got: "a kind " + strconv.Quote(content), unchecked: true}
			}
			count[int(kind)]++
		}
		var more []string
		for _, kind := range slices.Sorted(maps.Keys(count)) {
			if n := count[kind] - b.VirtioDevices[kind]; n > 0 {
				more = append(more, fmt.Sprintf("%s of kind %d", plural(n, "more device"), kind))
			}
		}
		return verdict{got: joined(more, "those alone"), hole: len(more) > 0}
	}})
}

// Kinds of file systems (statfs(2)) that are forgotten.
const (
	magicOverlay = "794c7630"
	magicTmpfs   = "1021994"
)

// leftovers looks for what an earlier verification has left, and leaves the same.
func (b *builder) leftovers() {
	marker := "." + probe.Name + "-left-"
	for _, dir := range []string{"/", "/home", b.Home, "/root", "/tmp", "/var", "/var/tmp", "/etc"} {
		if dir == "" || b.shared(dir) {
			continue
		}
		kind := b.order(probe.Order{Verb: probe.Filesystem, Path: dir})
		found := b.order(probe.Order{Verb: probe.Glob, Path: path.Join(dir, marker+"*")})
		b.order(probe.Order{Verb: probe.Create, Path: path.Join(dir, marker+b.Cookie), Mode: 0o600, Data: []byte(b.Boot)})
		b.add(attempt{category: catLeftovers, name: "what the last run left in " + dir, expected: "nothing", judge: func(e Evidence) verdict {
			return b.judgeLeft(e.Results[kind], e.Results[found])
		}})
	}
}

// shared says that a folder of the guest's is in a share.
func (b *builder) shared(dir string) bool {
	return slices.ContainsFunc(b.Shares, func(s Share) bool {
		return s.Tag != rootTag && (dir == s.MountPoint || strings.HasPrefix(dir, s.MountPoint+"/"))
	})
}

func (b *builder) judgeLeft(kind, found Result) verdict {
	if kind.Outcome != probe.OK || found.Outcome != probe.OK {
		return verdict{got: orDone(kind), unchecked: true}
	}
	for _, boot := range lines(found.Data) {
		if boot != b.Boot {
			return verdict{got: "a file of another run of the VM", hole: true}
		}
	}
	if k := string(kind.Data); k != magicOverlay && k != magicTmpfs {
		return verdict{got: "a file system that is not in memory: " + k, hole: true}
	}
	if b.Earlier == "" || b.Earlier == b.Boot {
		return verdict{got: "in memory; no verification of an earlier run to compare with"}
	}
	return verdict{got: "nothing"}
}
