package qemu

import (
	"slices"
	"strings"
	"testing"

	"bield/internal/hypervisor"
)

func TestArguments(t *testing.T) {
	small := hypervisor.Machine{Name: "agent", VCPU: 2, MemoryMiB: 1024, Kernel: "/i/vmlinux", Initrd: "/r/initrd"}
	full := small
	full.Taps = []hypervisor.Tap{{MAC: "02:00:00:01:b8:4b"}}
	full.Shares = []hypervisor.Share{{Tag: "root", Socket: "/r/root.sock"}, {Tag: "a,b", Socket: "/r/a,b.sock"}}
	full.RootDisk, full.Verbose, full.Cmdline = "/i/root,1.erofs", true, []string{"one", "two=2"}
	tcg := options{tscKHz: 2595123, optionROMs: true}
	for name, args := range map[string][]string{
		"tcg":         arguments(full, tcg),
		"kvm":         arguments(full, options{kvm: true, optionROMs: true}),
		"tcg-qemu10":  arguments(small, options{tscKHz: 2595123}),
		"tcg-minimum": arguments(small, tcg),
	} {
		golden(t, name, pairs(args))
	}
}

// pairs puts an option and its value on one line.
func pairs(args []string) string {
	var b strings.Builder
	for i, arg := range args {
		if i > 0 && strings.HasPrefix(arg, "-") {
			b.WriteString("\n")
		} else if i > 0 {
			b.WriteString(" ")
		}
		b.WriteString(arg)
	}
	return b.String() + "\n"
}

// TestKVMNeedsNoTSC keeps what belongs to TCG out of guests on KVM.
func TestKVMNeedsNoTSC(t *testing.T) {
	args := arguments(hypervisor.Machine{Name: "a"}, options{kvm: true})
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
