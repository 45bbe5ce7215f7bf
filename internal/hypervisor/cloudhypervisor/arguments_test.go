package cloudhypervisor

import (
	"flag"
	"os"
	"strings"
	"testing"

	"bield/internal/hypervisor"
	"bield/internal/hypervisor/hypervisortest"
)

var update = flag.Bool("update", false, "write the goldens anew")

func TestArguments(t *testing.T) {
	minimal := hypervisor.Machine{Name: "a", VCPU: 1, MemoryMiB: 512, Kernel: "/i/vmlinux", Initrd: "/r/initrd", Dir: "/r"}
	odd := minimal
	odd.Taps = []hypervisor.Tap{{Queues: make([]*os.File, 1), MAC: "02:00:00:01:00:01"}}
	odd.Shares = []hypervisor.Share{{Tag: "a", Socket: "/r/a,[b].sock"}}
	odd.RootDisk, odd.Verbose, odd.Cmdline = "/i/root,1.erofs", true, []string{"one", "two=2"}
	for name, c := range map[string]struct {
		m    hypervisor.Machine
		arch string
	}{
		"claude-home-amd64": {hypervisortest.ClaudeHome(8), "amd64"}, "claude-home-arm64": {hypervisortest.ClaudeHome(8), "arm64"},
		"minimal": {minimal, "amd64"}, "odd": {odd, "amd64"},
	} {
		args, err := arguments(c.m, c.arch)
		if err != nil {
			t.Fatal(err)
		}
		hypervisortest.GoldenArguments(t, *update, name, args)
	}
}

func TestWhatCannotBeSaid(t *testing.T) {
	for name, change := range map[string]func(*hypervisor.Machine){
		"a quote in the run folder": func(m *hypervisor.Machine) { m.Dir = `/run/"x"` },
		"a line break in a disk":    func(m *hypervisor.Machine) { m.RootDisk = "/i/a\nb" },
	} {
		m := hypervisortest.ClaudeHome(8)
		change(&m)
		if _, err := arguments(m, "amd64"); err == nil || !strings.Contains(err.Error(), "use another path") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
