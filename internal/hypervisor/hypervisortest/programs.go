package hypervisortest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bield/internal/hypervisor"
)

// PublicDir is a temporary folder that every user can reach.
func PublicDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "bield-vmm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

// BringSelf links or copies this program to path, as a VMM that it plays.
func BringSelf(path string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if os.Link(self, path) == nil {
		return nil
	}
	data, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(path, data, 0o755), os.Chmod(path, 0o755))
}

// Skip skips a test that lacks something, or fails it where all is to be there.
func Skip(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("BIELD_TEST_REQUIRE") == "1" {
		t.Fatal("required, but ", reason)
	}
	t.Skip(reason)
}

// GoldenArguments compares a VMM's command line with testdata/NAME.golden, where an
// option stands with its values on a line of its own.
func GoldenArguments(t testing.TB, update bool, name string, args []string) {
	t.Helper()
	var lines strings.Builder
	for i, arg := range args {
		switch {
		case i > 0 && strings.HasPrefix(arg, "-"):
			lines.WriteString("\n")
		case i > 0:
			lines.WriteString(" ")
		}
		lines.WriteString(arg)
	}
	got := lines.String() + "\n"
	path := filepath.Join("testdata", name+".golden")
	if update {
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

// ClaudeHome is the VM of the original that bield re-creates, with that many queues
// of its tap.
func ClaudeHome(queues int) hypervisor.Machine {
	const dir = "/run/bield/vms/claude-home"
	m := hypervisor.Machine{
		Name: "claude-home", VCPU: 8, MemoryMiB: 4096, Kernel: "/var/cache/bield/images/DIGEST/vmlinux", Initrd: dir + "/initrd", Dir: dir,
		Taps: []hypervisor.Tap{{Queues: make([]*os.File, queues), MAC: "02:00:00:01:b8:4b"}},
	}
	for _, tag := range []string{"root", "ssh-host-keys", "workspace", "claude-config"} {
		m.Shares = append(m.Shares, hypervisor.Share{Tag: tag, Socket: dir + "/share-" + tag + ".sock"})
	}
	return m
}
