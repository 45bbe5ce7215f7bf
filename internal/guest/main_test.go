package guest

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"bield/internal/guestconfig"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// skip says why a test cannot run here; where all must run it fails.
func skip(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("BIELD_TEST_REQUIRE") == "1" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// inNamespaces runs the test again in namespaces of its own, and reports
// whether the caller is that run.
func inNamespaces(t *testing.T, flags uintptr) bool {
	t.Helper()
	const inside = "BIELD_TEST_NAMESPACE"
	if os.Getenv(inside) == t.Name() {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatalf("make the mounts private: %v", err)
		}
		return true
	}
	if os.Geteuid() != 0 {
		skip(t, "needs root")
	}
	cmd := exec.CommandContext(testContext(t), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
	cmd.Env = append(os.Environ(), inside+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags | unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("in namespaces: %v\n%s", err, out)
	}
	return false
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
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
		t.Errorf("%s differs; got:\n%s", path, got)
	}
}

// testConfig is a configuration that is right.
func testConfig() guestconfig.Config {
	return guestconfig.Config{
		Version: guestconfig.Version, Hostname: "claude-home", Init: initBield,
		Root: guestconfig.Root{Tag: "root"},
		Network: guestconfig.Network{MAC: "02:00:00:01:b8:4b", Address: "192.168.83.2/24",
			Gateway: "192.168.83.1", Nameservers: []string{"1.1.1.1", "8.8.8.8"}},
		Shares: []guestconfig.Share{{Tag: "workspace", MountPoint: "/workspace"}},
		User: guestconfig.User{Name: "ann", UID: 1000, GID: 1000, Home: "/home/ann", Shell: "/usr/bin/zsh",
			AuthorizedKeys: []string{"ssh-ed25519 AAAA ann@host"}},
		HostKey: "/etc/ssh/host-keys/ssh_host_ed25519_key",
	}
}

// fill makes a tree with files in it.
func fill(t *testing.T, files map[string]string) tree {
	t.Helper()
	root := tree(t.TempDir())
	put(t, root, files)
	return root
}

func put(t *testing.T, root tree, files map[string]string) {
	t.Helper()
	for path, text := range files {
		if err := os.MkdirAll(filepath.Dir(root.at(path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root.at(path), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func content(t *testing.T, root tree, path string) string {
	t.Helper()
	b, err := os.ReadFile(root.at(path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
