package cloudhypervisor

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bield/internal/hypervisor"
)

var update = flag.Bool("update", false, "write the goldens anew")

// claudeHome is the VM of the original that bield re-creates.
func claudeHome() hypervisor.Machine {
	const dir = "/run/bield/vms/claude-home"
	m := hypervisor.Machine{
		Name: "claude-home", VCPU: 8, MemoryMiB: 4096, Kernel: "/var/cache/bield/images/DIGEST/vmlinux", Initrd: dir + "/initrd", Dir: dir,
		Taps: []hypervisor.Tap{{Queues: make([]*os.File, 8), MAC: "02:00:00:01:b8:4b"}},
	}
	for _, tag := range []string{"root", "ssh-host-keys", "workspace", "claude-config"} {
		m.Shares = append(m.Shares, hypervisor.Share{Tag: tag, Socket: dir + "/share-" + tag + ".sock"})
	}
	return m
}

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
		"claude-home-amd64": {claudeHome(), "amd64"}, "claude-home-arm64": {claudeHome(), "arm64"},
		"minimal": {minimal, "amd64"}, "odd": {odd, "amd64"},
	} {
		args, err := arguments(c.m, c.arch)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, lines(args))
	}
}

// lines puts an option and its values on one line.
func lines(args []string) string {
	var b strings.Builder
	for i, arg := range args {
		if strings.HasPrefix(arg, "--") && i > 0 {
			b.WriteString("\n")
		} else if i > 0 {
			b.WriteString(" ")
		}
		b.WriteString(arg)
	}
	return b.String() + "\n"
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not as the golden (go test -update writes it):\n%s\nwant\n%s", name, got, want)
	}
}

func TestWhatCannotBeSaid(t *testing.T) {
	for name, change := range map[string]func(*hypervisor.Machine){
		"a quote in the run folder": func(m *hypervisor.Machine) { m.Dir = `/run/"x"` },
		"a line break in a disk":    func(m *hypervisor.Machine) { m.RootDisk = "/i/a\nb" },
	} {
		m := claudeHome()
		change(&m)
		if _, err := arguments(m, "amd64"); err == nil || !strings.Contains(err.Error(), "use another path") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
