package hypervisor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestKVMIsRefusedWithAReason(t *testing.T) {
	for name, test := range map[string]struct {
		device bool
		want   string
	}{
		"no device":   {false, "there is no /dev/kvm"},
		"not the KVM": {true, "ask /dev/kvm for its version"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			if test.device {
				if err := os.Mkdir(filepath.Join(root, "dev"), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(root, "dev/kvm"), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if usable, reason := kvmBelow(root); usable || !strings.Contains(reason, test.want) {
				t.Errorf("%v, %q, want %q", usable, reason, test.want)
			}
		})
	}
}

func TestVirtualizes(t *testing.T) {
	for flags, want := range map[string]bool{
		"fpu vmx sse": true, "fpu svm": true, "fpu svm_lock avmx hypervisor": false, "": false,
	} {
		cpuinfo := "processor\t: 0\nvendor_id\t: X\nflags\t\t: " + flags + "\nvmx flags\t: vmx\n"
		if got := virtualizes(strings.NewReader(cpuinfo)); got != want {
			t.Errorf("%q: %v", flags, got)
		}
	}
}

func TestKVMOfThisHost(t *testing.T) {
	usable, reason := KVM()
	t.Logf("usable %v, %s", usable, reason)
	if usable != (reason == "") {
		t.Error("usable KVM with a reason against it, or the reverse")
	}
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	if usable && !virtualizes(strings.NewReader(string(cpuinfo))) {
		t.Error("KVM is usable on a CPU that can't virtualize")
	}
}

func TestWhoMayOpenKVM(t *testing.T) {
	for _, c := range []struct {
		mode, gid, group uint32
		open             bool
	}{
		{0o660, 104, 104, true}, {0o666, 0, 0, true}, {0o666, 104, 0, true},
		{0o600, 0, 0, false}, {0o660, 0, 0, false}, {0o640, 104, 0, false},
	} {
		if group, open := kvmGroup(unix.Stat_t{Mode: unix.S_IFCHR | c.mode, Gid: c.gid}); group != c.group || open != c.open {
			t.Errorf("%04o, group %d: %d, %v", c.mode, c.gid, group, open)
		}
	}
}

func TestCPUsThatRunGuests(t *testing.T) {
	for name, c := range map[string]struct {
		cpuinfo string
		module  string
		want    bool
	}{
		"Intel": {"flags\t: fpu vmx", "", true}, "flags are hidden": {"flags\t: fpu", "kvm_amd", true}, "none": {"flags\t: fpu", "kvm_pvm", false},
	} {
		root := t.TempDir()
		for _, dir := range []string{"proc", "sys/module/" + c.module} {
			if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(root, "proc/cpuinfo"), []byte(c.cpuinfo+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if usable, reason := byCPU(root); usable != c.want || usable != (reason == "") {
			t.Errorf("%s: %v, %q", name, usable, reason)
		}
	}
}
