package hypervisor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
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
