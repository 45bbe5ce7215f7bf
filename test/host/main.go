package host

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"bield/internal/api"
	"bield/test/fakes"
)

// envInside is set in the process inside the namespaces: see Base.
const envInside = "BIELD_TEST_BASE"

// Base is the folder of all machines of this test binary, with the programs in
// bin and an image store in cache; "" where there can be no machine.
func Base() string { return os.Getenv(envInside) }

// Bin is the path of a program: bieldd, bield-init, or one of the test's own.
func Bin(name string) string { return filepath.Join(Base(), "bin", name) }

// The main thread is kept from the machines, whose threads are in namespaces of
// their own: what /proc says of a process is what it says of this one.
func init() { //nolint:gochecknoinits // only here a goroutine gets hold of the main thread: see runtime.LockOSThread
	if Base() != "" {
		runtime.LockOSThread()
	}
}

// Main is TestMain of a package whose tests run on machines of this package.
// It also makes the test's binary every program that a machine has but bieldd:
// the fakes that bieldd starts, and own, by name.
func Main(m *testing.M, own map[string]func() int) {
	name := filepath.Base(os.Args[0])
	for _, programs := range []map[string]func() int{own, fakes.Programs()} {
		if program, ok := programs[name]; ok {
			os.Exit(program())
		}
	}
	if Base() != "" || lacking() != "" {
		os.Exit(inside(m))
	}
	code, err := outside(own)
	if err != nil {
		fmt.Println("FAIL:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// lacking says why there can be no machines here.
func lacking() string {
	if os.Geteuid() != 0 {
		return "machines need root, for namespaces of their own"
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return "there is no /dev/net/tun"
	}
	for _, program := range []string{"go", "ssh", "setpriv", "mount", "script"} {
		if _, err := exec.LookPath(program); err != nil {
			return "there is no program " + program
		}
	}
	return ""
}

// outside builds what is to be tested, runs the tests in namespaces of their
// own, and adopts whatever they leave running.
func outside(own map[string]func() int) (code int, err error) {
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 1, err
	}
	base, remove, err := makeBase()
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	if err := buildPrograms(filepath.Join(base, "bin"), own); err != nil {
		return 1, err
	}
	// From the same file system the machines' fakes are links to it, not copies.
	self := filepath.Join(base, "tests")
	if err := install(self); err != nil {
		return 1, err
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), envInside+"="+base)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	return reap(cmd.Process.Pid), leftRunning()
}

// makeBase makes Base in memory, where this thread and what it starts can see
// it: a disk would take its time over each record that is synced.
func makeBase() (base string, remove func() error, err error) {
	// A short path: the sockets below it have at most 107 bytes.
	if base, err = os.MkdirTemp("", "cli-"); err != nil {
		return "", nil, err
	}
	remove = func() error { return os.Remove(base) }
	err = unix.Unshare(unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	// The size is a limit, above what the image store wants to be free.
	if err == nil {
		err = unix.Mount("tmpfs", base, "tmpfs", 0, "mode=755,size=4g")
	}
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("make a folder in memory: %w", err), remove())
	}
	remove = func() error { return errors.Join(unix.Unmount(base, unix.MNT_DETACH), os.Remove(base)) }
	return base, remove, nil
}

// reap waits for the tests, and meanwhile for all that was left to this process:
// a /proc full of the dead makes everything slow. It returns the exit code.
func reap(tests int) int {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 1
		case pid == tests && status.Exited():
			return status.ExitStatus()
		case pid == tests:
			return 128 + int(status.Signal())
		}
	}
}

// buildPrograms builds bieldd, with the hooks of the tag faults, and bield-init
// from the tree, and puts this binary beside them under its own names.
func buildPrograms(bin string, own map[string]func() int) error {
	args := []string{"build", "-tags", "faults", "-ldflags", "-X main.version=test", "-o", bin + "/"}
	if os.Getenv("GOCOVERDIR") != "" {
		args = append(args, "-cover", "-coverpkg=bield/...")
	}
	cmd := exec.Command("go", append(args, "bield/cmd/bieldd", "bield/cmd/bield-init", "bield/cmd/bield-probe")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build bieldd: %w: %s", err, out)
	}
	for name := range own {
		if err := install(filepath.Join(bin, name)); err != nil {
			return err
		}
	}
	return nil
}

// install gives this binary another name, at which every user may run it.
func install(path string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	switch err := os.Link(self, path); {
	case err == nil:
		return os.Chmod(path, 0o755)
	case errors.Is(err, fs.ErrExist):
		return nil // of a machine before in the same folder
	}
	data, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o755)
}

// leftRunning kills what the tests left behind and calls it a failure. What a
// process leaves when it is killed is adopted, and killed in the next round.
func leftRunning() error {
	var left []string
	for {
		children := processes(func(p Process) bool { return p.Parent == os.Getpid() })
		if len(children) == 0 {
			break
		}
		for _, p := range children {
			if p.State != "Z" {
				left = append(left, fmt.Sprintf("%d %s", p.PID, p.Command))
				_ = syscall.Kill(p.PID, syscall.SIGKILL)
			}
			_, _ = syscall.Wait4(p.PID, nil, 0, nil)
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("processes outlived the tests: %s", strings.Join(left, "; "))
	}
	return nil
}

// inside runs the tests where nothing of the machine's own is in their way.
func inside(m *testing.M) int {
	if Base() == "" {
		return m.Run()
	}
	unix.Umask(0o022)
	if err := hideMachine(); err != nil {
		fmt.Println("FAIL: make the mounts:", err)
		return 1
	}
	// Machines mostly wait: more of them at once than there are cores.
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
	empty := filepath.Join(Base(), "empty")
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

// Require skips a test where there can be no machine, and makes the image that
// all machines share. It also keeps `go test` from taking a result of an older
// tree from its cache: it notes which files a test has looked at.
func Require(t testing.TB) {
	if reason := lacking(); reason != "" {
		if os.Getenv("BIELD_TEST_REQUIRE") == "1" {
			t.Fatal("required: " + reason)
		}
		t.Skip(reason)
	}
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	for _, top := range []string{"cmd/bieldd", "cmd/bield-init", "cmd/bield-probe", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, _ fs.DirEntry, err error) error {
			if err == nil {
				_, err = os.Stat(path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := Alone(filepath.Join(Base(), "image"), buildImage); err != nil {
		t.Fatal("build the machines' image: ", err)
	}
}

// moduleRoot is the folder above the test's that has the go.mod.
func moduleRoot() (string, error) {
	dir := "."
	for range 8 {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		dir = filepath.Join("..", dir)
	}
	return "", errors.New("the tests run outside the module")
}

// Alone makes a machine on a thread of its own, which ends with it, and lets do
// use it there.
func Alone(work string, do func(*Host) error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		h, err := New(work)
		if err == nil {
			err = errors.Join(do(h), h.ssh.Close())
		}
		done <- err
	}()
	return <-done
}

// buildImage fills the cache that machines share.
func buildImage(h *Host) error {
	if err := h.StartDaemon(nil); err != nil {
		return err
	}
	built := h.Client.BuildImage(context.Background(), api.BuildRequest{}, func(api.Event) {})
	return errors.Join(built, h.EndDaemon(unix.SIGTERM))
}
