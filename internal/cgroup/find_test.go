package cgroup

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fake is a host whose control groups are plain files. A name that ends in a slash
// is a folder.
func fake(t *testing.T, files map[string]string) Host {
	t.Helper()
	h := Host{Root: t.TempDir()}
	for name, text := range files {
		path := filepath.Join(h.Root, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		if strings.HasSuffix(name, "/") {
			must(t, os.MkdirAll(path, 0o755))
			continue
		}
		must(t, os.WriteFile(path, []byte(text), 0o644))
	}
	return h
}

const (
	mountV2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
	mounted = "proc/thread-self/mountinfo"
	within  = "proc/thread-self/cgroup"
)

// v2 is a host of version 2 alone, with more or other files.
func v2(more map[string]string) map[string]string {
	files := map[string]string{
		mounted: "22 1 0:20 / / rw - ext4 /dev/vda rw\n" + mountV2, within: "0::/user.slice/session-1.scope\n",
		"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n", "sys/fs/cgroup/cgroup.procs": "",
		"sys/fs/cgroup/cgroup.subtree_control":      "cpu memory pids\n",
		"sys/fs/cgroup/user.slice/session-1.scope/": "",
	}
	maps.Copy(files, more)
	return files
}

// v1 is a host of version 1, as the test machines are: hybrid, with nothing in
// version 2.
func v1(more map[string]string) map[string]string {
	files := map[string]string{
		mounted: "24 20 0:21 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n" +
			"25 24 0:22 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
			"26 24 0:23 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
			"27 24 0:24 /docker/one /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n" +
			"28 24 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
		within:                                   "4:memory:/system.slice/bieldd.service\n3:cpu,cpuacct:/\n2:pids:/docker/one/two\n1:name=systemd:/\n0::/\n",
		"sys/fs/cgroup/cpu,cpuacct/cgroup.procs": "", "sys/fs/cgroup/memory/cgroup.procs": "", "sys/fs/cgroup/pids/cgroup.procs": "",
		"sys/fs/cgroup/memory/system.slice/bieldd.service/": "", "sys/fs/cgroup/pids/two/": "",
		"sys/fs/cgroup/unified/cgroup.procs": "", "sys/fs/cgroup/unified/cgroup.controllers": "",
	}
	maps.Copy(files, more)
	return files
}

func TestFind(t *testing.T) {
	const unit = "sys/fs/cgroup/system.slice/bieldd.service"
	for name, c := range map[string]struct {
		files map[string]string
		want  []string // folders below which groups go
		why   string
	}{
		"version 2 by hand": {v2(nil), []string{"sys/fs/cgroup"}, ""},
		"version 2 below its unit": {v2(map[string]string{within: "0::/system.slice/bieldd.service/bieldd\n", unit + "/bieldd/": ""}),
			[]string{unit}, ""},
		"version 2, an older systemd": {v2(map[string]string{within: "0::/system.slice/bieldd.service\n", unit + "/": ""}),
			[]string{"sys/fs/cgroup"}, ""},
		"version 1": {v1(nil), []string{"sys/fs/cgroup/cpu,cpuacct", "sys/fs/cgroup/memory/system.slice/bieldd.service", "sys/fs/cgroup/pids/two"}, ""},
		"hybrid": {v1(map[string]string{"sys/fs/cgroup/unified/cgroup.controllers": "memory pids\n"}),
			[]string{"sys/fs/cgroup/cpu,cpuacct", "sys/fs/cgroup/unified"}, ""},
		"read-only": {v2(map[string]string{mounted: strings.Replace(mountV2, "rw,nosuid", "ro,nosuid", 1)}), nil, "read-only"},
		"covered":   {v1(map[string]string{mounted: "26 24 0:23 / /nowhere rw - cgroup cgroup rw,memory\n"}), nil, "not to be seen"},
		"none":      {map[string]string{mounted: "", within: ""}, nil, "no hierarchy"},
		"no /proc":  {nil, nil, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			g := &Groups{Host: fake(t, c.files), Owner: "bield /run/bield"}
			group, err := g.Of("one")
			if c.why != "" {
				if !errors.Is(err, ErrNone) || !strings.Contains(err.Error(), c.why) {
					t.Errorf("%v %v, want %q", group, err, c.why)
				}
				return
			}
			var want Group
			for _, dir := range c.want {
				want = append(want, filepath.Join(g.Host.Root, dir, "bield-9a9cc525", "vm-one"))
			}
			if err != nil || !slices.Equal(group, want) {
				t.Errorf("%v %v, want %v", group, err, want)
			}
		})
	}
}

// TestMakeV2 has the files of a group there beforehand, as the kernel would make
// them, and reads what was written.
func TestMakeV2(t *testing.T) {
	const base = "sys/fs/cgroup/bield-9a9cc525/"
	files := v2(map[string]string{
		"sys/fs/cgroup/cgroup.subtree_control": "", base + "cgroup.subtree_control": "cpu", within: "0::/\n",
		base + "cpu.weight": "", base + "vm-one/memory.oom.group": "",
	})
	for _, name := range []string{"memory.max", "memory.swap.max", "pids.max", "cpu.max"} {
		files[base+"vm-one/"+name] = ""
	}
	g := &Groups{Host: fake(t, files), Owner: "bield /run/bield"}
	group, err := g.Of("one")
	must(t, err)
	limits := LimitsOf(VM{MemoryMiB: 1024, VCPU: 2, Shares: 3})
	must(t, g.Make(t.Context(), group, limits))
	for name, want := range map[string]string{
		"sys/fs/cgroup/cgroup.subtree_control": "+memory +pids +cpu", base + "cgroup.subtree_control": "+memory +pids",
		base + "vm-one/memory.max": "2080374784", base + "vm-one/memory.swap.max": "1073741824", base + "vm-one/memory.oom.group": "1",
		base + "vm-one/pids.max": "232", base + "vm-one/cpu.max": "300000 100000",
	} {
		text, err := os.ReadFile(filepath.Join(g.Host.Root, name))
		if err != nil || string(text) != want {
			t.Errorf("%s: %q %v, want %q", name, text, err, want)
		}
	}
	must(t, os.WriteFile(filepath.Join(group[0], "memory.events"), []byte("low 0\noom 3\noom_kill 2\n"), 0o600))
	if n := group.OOMKills(); n != 2 {
		t.Errorf("%d were ended at the limit", n)
	}
}

func TestLimitsOf(t *testing.T) {
	small, large := LimitsOf(VM{MemoryMiB: 512, VCPU: 1, Shares: 3}), LimitsOf(VM{MemoryMiB: 4096, VCPU: 8, Shares: 5})
	if small != (Limits{MemoryMiB: 1216, SwapMiB: 512, Processes: 228, CPUs: 2}) || large.MemoryMiB != 6720 {
		t.Errorf("%+v %+v", small, large)
	}
	if l := LimitsOf(VM{MemoryMiB: 512, VCPU: 1, Shares: 3, Emulated: true}); l.MemoryMiB != small.MemoryMiB+translatedMiB {
		t.Errorf("without KVM: %+v", l)
	}
}
