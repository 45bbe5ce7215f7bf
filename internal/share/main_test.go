package share

import (
	"encoding/json"
	"errors"
	"flag"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"bield/internal/process"
)

var update = flag.Bool("update", false, "write the goldens anew")

// The test binary is also a fake virtiofsd: it reports what it was given and
// serves one connection, until that ends.
func TestMain(m *testing.M) {
	process.MaybeLaunch()
	if len(os.Args) > 1 && os.Args[1] == "fake-virtiofsd" {
		fake()
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

type fakeReport struct {
	Args  []string
	Names []string // in the working directory
	UID   int
}

func fake() {
	names, _ := filepath.Glob("*")
	listener, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		panic(err)
	}
	conn, err := listener.Accept()
	if err != nil {
		panic(err)
	}
	_ = json.NewEncoder(conn).Encode(fakeReport{os.Args[2:], names, os.Getuid()})
	_, _ = conn.Read(make([]byte, 1))
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

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "needs root")
	}
}

func skip(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("BIELD_TEST_REQUIRE") == "1" {
		t.Fatal("required, but ", reason)
	}
	t.Skip(reason)
}

// publicDir is a temporary folder that every user can reach.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "bield-share-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// fakeCommand is a virtiofsd command that runs this test binary.
func fakeCommand(t *testing.T) []string {
	t.Helper()
	path := filepath.Join(publicDir(t), "virtiofsd")
	if err := bringSelf(path); err != nil {
		t.Fatal(err)
	}
	return []string{path, "fake-virtiofsd"}
}

// realCommand finds a virtiofsd of version 1.13 or newer where bield or the
// distribution puts it; BIELD_TEST_VIRTIOFSD overrides.
func realCommand(t *testing.T) []string {
	t.Helper()
	if words := strings.Fields(os.Getenv("BIELD_TEST_VIRTIOFSD")); len(words) > 0 {
		return words
	}
	cache := os.Getenv("BIELD_CACHE_DIR")
	if cache == "" {
		cache = "/var/cache/bield"
	}
	for _, place := range []string{cache + "/tools/virtiofsd-*", "/"} {
		dirs, _ := filepath.Glob(place)
		for _, dir := range dirs {
			program := filepath.Join(dir, "usr/libexec/virtiofsd")
			loaders, _ := filepath.Glob(filepath.Join(dir, "usr/lib/*/ld-linux-*"))
			if _, err := os.Stat(program); err != nil || len(loaders) == 0 {
				continue
			}
			return []string{loaders[0], "--library-path", filepath.Dir(loaders[0]), program}
		}
	}
	skip(t, "no virtiofsd 1.13: run `bield setup` or set BIELD_TEST_VIRTIOFSD")
	return nil
}

// bringSelf links or copies this program to path.
func bringSelf(path string) error {
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
