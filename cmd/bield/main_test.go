package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"bield/test/fakes"
)

// envInside is set in the process inside the namespaces: the folder of the
// tests, with the programs in bin.
const envInside = "BIELD_SCRIPTS_INSIDE"

// The main thread is kept from the scripts, whose threads are in namespaces of
// their own: what /proc says of a process is what it says of this one.
func init() { //nolint:gochecknoinits // only here a goroutine gets hold of the main thread: see runtime.LockOSThread
	if os.Getenv(envInside) != "" {
		runtime.LockOSThread()
	}
}

// TestMain also makes this binary every program that the scripts run but
// bieldd: bield itself, and the fakes that bieldd starts.
func TestMain(m *testing.M) {
	name := filepath.Base(os.Args[0])
	if name == "bield" {
		version = "test"
		os.Exit(Main())
	}
	if fake, ok := fakes.Programs()[name]; ok {
		os.Exit(fake())
	}
	if os.Getenv(envInside) != "" || lacking() != "" {
		os.Exit(inside(m))
	}
	code, err := outside()
	if err != nil {
		fmt.Println("FAIL:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// lacking says why there can be no scripts here.
func lacking() string {
	if os.Geteuid() != 0 {
		return "scripts need root, for namespaces of their own"
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
func outside() (code int, err error) {
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 1, err
	}
	// A short path: the sockets below it have at most 107 bytes.
	base, err := os.MkdirTemp("", "cli-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(base)) }()
	if err := os.Chmod(base, 0o755); err != nil {
		return 1, err
	}
	if err := buildPrograms(filepath.Join(base, "bin")); err != nil {
		return 1, err
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), envInside+"="+base)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	runErr := cmd.Run()
	var exit *exec.ExitError
	if errors.As(runErr, &exit) {
		code, runErr = exit.ExitCode(), nil
	}
	return code, errors.Join(runErr, leftRunning())
}

// buildPrograms builds bieldd and bield-init from the tree, and puts this
// binary beside them as bield.
func buildPrograms(bin string) error {
	args := []string{"build", "-ldflags", "-X main.version=test", "-o", bin + "/"}
	if os.Getenv("GOCOVERDIR") != "" {
		args = append(args, "-cover", "-coverpkg=bield/...")
	}
	cmd := exec.Command("go", append(args, "../bieldd", "../bield-init")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build bieldd: %w: %s", err, out)
	}
	return install(filepath.Join(bin, "bield"))
}

// install gives this binary another name, at which every user may run it.
func install(path string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if os.Link(self, path) == nil {
		return os.Chmod(path, 0o755)
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
		children := slices.DeleteFunc(processes(), func(p process) bool { return p.parent != os.Getpid() })
		if len(children) == 0 {
			break
		}
		for _, p := range children {
			if p.state != "Z" {
				left = append(left, fmt.Sprintf("%d %s", p.pid, p.command))
				_ = syscall.Kill(p.pid, syscall.SIGKILL)
			}
			_, _ = syscall.Wait4(p.pid, nil, 0, nil)
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("processes outlived the tests: %s", strings.Join(left, "; "))
	}
	return nil
}

// process is one as /proc shows it.
type process struct {
	pid, parent    int
	state, command string
	// mounts is its mount namespace.
	mounts string
}

func processes() []process {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var all []process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		// The name in parentheses may hold anything: the fields stand behind
		// the last one (proc_pid_stat(5)).
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		parent, _ := strconv.Atoi(fields[1])
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		mounts, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
		all = append(all, process{pid, parent, fields[0], strings.ReplaceAll(string(line), "\x00", " "), mounts})
	}
	return all
}
