package main

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

var updateScripts = flag.Bool("update", false, "write what `cmp` compares anew")

// inside runs the tests where nothing of the machine's own is in their way.
func inside(m *testing.M) int {
	if os.Getenv(envInside) == "" {
		return m.Run()
	}
	unix.Umask(0o022)
	if err := hideMachine(); err != nil {
		fmt.Println("FAIL: make the mounts:", err)
		return 1
	}
	// Scripts mostly wait: more of them at once than there are cores.
	if f := flag.Lookup("test.parallel"); f != nil {
		_ = f.Value.Set("8")
	}
	return m.Run()
}

// hideMachine hides the configuration and the virtiofsd that this machine has.
func hideMachine() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if _, err := os.Stat("/etc/bield"); err == nil {
		if err := unix.Mount("tmpfs", "/etc/bield", "tmpfs", 0, "mode=755"); err != nil {
			return err
		}
	}
	empty := filepath.Join(os.Getenv(envInside), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		return err
	}
	for _, path := range []string{"/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd"} {
		if _, err := os.Stat(path); err == nil {
			if err := unix.Mount(empty, path, "", unix.MS_BIND, ""); err != nil {
				return err
			}
		}
	}
	return nil
}

// TestScripts runs testdata/script; its README says what scripts can do.
func TestScripts(t *testing.T) {
	if reason := lacking(); reason != "" {
		if os.Getenv("BIELD_TEST_REQUIRE") == "1" {
			t.Fatal("required: " + reason)
		}
		t.Skip(reason)
	}
	dependOnTree(t)
	base := os.Getenv(envInside)
	image := sync.OnceValue(func() error { return buildImage(base) })
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/script",
		WorkdirRoot:        base,
		UpdateScripts:      *updateScripts,
		RequireUniqueNames: true,
		Cmds:               commands(),
		Setup: func(env *testscript.Env) error {
			if err := image(); err != nil {
				return err
			}
			return setUp(base, env)
		},
	})
}

// dependOnTree lets `go test` take no result of an older tree from its cache:
// it notes which files a test has looked at.
func dependOnTree(t *testing.T) {
	for _, top := range []string{"../bieldd", "../bield-init", "../../internal"} {
		err := filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
			if err == nil {
				_, err = os.Stat(path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// The user in the guests: nobody whom the machine knows.
const (
	guestUID = 4711
	guestGID = 4712
)

// configuration is what a script has that brings none of its own.
const configuration = `stateDir: ~/state
user: {name: dev, uid: 4711, gid: 4712}
stopTimeout: 1s
vms:
  one: {ip: 192.168.83.2, workspace: ~/src, mem: 512}
  two: {ip: 192.168.83.3, workspace: ~/src, mem: 1G}
`

type hostKey struct{}

func hostOf(ts *testscript.TestScript) *host {
	h, ok := ts.Value(hostKey{}).(*host)
	if !ok {
		ts.Fatalf("no host was set up")
	}
	return h
}

// scriptTimeout is when all that a script started is killed, so that it fails
// where it stands. A script takes a second or two.
const scriptTimeout = time.Minute

// setUp makes a script's machine. The thread belongs to the script from here
// on, and ends with it: all that the script starts is in its namespaces.
func setUp(base string, env *testscript.Env) error {
	t, ok := env.T().(testing.TB)
	if !ok {
		return fmt.Errorf("%T is no testing.TB", env.T())
	}
	runtime.LockOSThread()
	h, err := newHost(env.WorkDir)
	if err != nil {
		return err
	}
	late := time.AfterFunc(scriptTimeout, h.killAll)
	env.Defer(func() {
		late.Stop()
		h.end(t)
	})
	env.Values[hostKey{}] = h
	for key, value := range h.environment(base) {
		env.Setenv(key, value)
	}
	return nil
}

// buildImage fills the cache that scripts share, on a machine of its own.
func buildImage(base string) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with this goroutine
		done <- buildImageHere(base)
	}()
	return <-done
}

func buildImageHere(base string) error {
	h, err := newHost(filepath.Join(base, "image"))
	if err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(base, "bin", "bield"), "image", "build", "--base")
	for key, value := range h.environment(base) {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the scripts' image: %w: %s", err, out)
	}
	_ = h.ssh.Close()
	return h.endDaemon(unix.SIGTERM)
}

// waitFor polls for what has no event a test could wait on.
func waitFor(limit time.Duration, done func() bool) bool {
	for end := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		if done() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}
