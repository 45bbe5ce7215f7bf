package qemu

import (
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"

	"bield/internal/hypervisor"
	"bield/internal/hypervisor/hypervisortest"
)

func TestArguments(t *testing.T) {
	small := hypervisor.Machine{Name: "agent", VCPU: 2, MemoryMiB: 1024, Kernel: "/i/vmlinux", Initrd: "/r/initrd"}
	full := small
	full.Taps = []hypervisor.Tap{{MAC: "02:00:00:01:b8:4b"}}
	full.Shares = []hypervisor.Share{{Tag: "root", Socket: "/r/root.sock"}, {Tag: "a,b", Socket: "/r/a,b.sock"}}
	full.RootDisk, full.Verbose, full.Cmdline = "/i/root,1.erofs", true, []string{"one", "two=2"}
	x86, arm := knownBoard(t, "amd64"), knownBoard(t, "arm64")
	tcg := options{board: x86, tscKHz: 2595123, optionROMs: true}
	for name, args := range map[string][]string{
		"amd64-tcg":         arguments(full, tcg),
		"amd64-kvm":         arguments(full, options{board: x86, kvm: true, optionROMs: true}),
		"amd64-tcg-qemu10":  arguments(small, options{board: x86, tscKHz: 2595123}),
		"amd64-tcg-minimum": arguments(small, tcg),
		"arm64-tcg":         arguments(full, options{board: arm, optionROMs: true}),
		"arm64-kvm":         arguments(full, options{board: arm, kvm: true, optionROMs: true}),
		"arm64-tcg-qemu10":  arguments(small, options{board: arm}),

		"amd64-claude-home":     arguments(hypervisortest.ClaudeHome(1), options{board: x86, kvm: true, optionROMs: true}),
		"amd64-claude-home-tcg": arguments(hypervisortest.ClaudeHome(1), tcg),
		"arm64-claude-home":     arguments(hypervisortest.ClaudeHome(1), options{board: arm, kvm: true, optionROMs: true}),
	} {
		hypervisortest.GoldenArguments(t, *update, name, args)
	}
}

func knownBoard(t *testing.T, arch string) board {
	t.Helper()
	b, err := boardFor(arch)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestOwnArchitecture: a driver starts the QEMU of the machine that it runs on.
func TestOwnArchitecture(t *testing.T) {
	want := map[string]string{"amd64": "qemu-system-x86", "arm64": "qemu-system-arm"}[runtime.GOARCH]
	if want == "" {
		t.Skip("bield does not know " + runtime.GOARCH)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := New("", false).Find(); !errors.Is(err, ErrMissing) || !strings.HasSuffix(err.Error(), " "+want) {
		t.Errorf("%v, want the package %s in it", err, want)
	}
	d := New("", true)
	d.arch = "riscv64"
	if _, err := d.Find(); err == nil || !strings.Contains(err.Error(), "no QEMU for riscv64") {
		t.Error(err)
	}
}

// TestKVMNeedsNoTSC keeps what belongs to TCG out of guests on KVM.
func TestKVMNeedsNoTSC(t *testing.T) {
	args := arguments(hypervisor.Machine{Name: "a"}, options{board: knownBoard(t, "amd64"), kvm: true})
	line := args[slices.Index(args, "-append")+1]
	for _, word := range []string{"tsc", "no_timer_check", "notests", "init_on_alloc"} {
		if strings.Contains(line, word) {
			t.Errorf("%q in %q", word, line)
		}
	}
}

func TestTSC(t *testing.T) {
	if !hasTSC {
		t.Skip("no TSC on this architecture")
	}
	first := readTSC()
	short, err := tscKHz(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	long, err := tscKHz(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	if diff := short - long; diff*diff > (long/1000)*(long/1000) {
		t.Errorf("measured %d and %d kHz: more than a thousandth apart", short, long)
	}
	t.Logf("%d and %d kHz", short, long)
}
