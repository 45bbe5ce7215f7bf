package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bield/internal/process"
	"bield/test/fakes"
)

// Environment between the outer process and the one in the namespaces.
const envInside = "BIELD_E2E_INSIDE"

// TestMain runs the tests in namespaces of their own. The outer process builds
// what needs the network and adopts whatever the tests leave running.
// Under other names this binary is what TestPackage needs in a guest.
func TestMain(m *testing.M) {
	process.MaybeLaunch()
	name := filepath.Base(os.Args[0])
	if fake, ok := fakes.Programs()[name]; ok {
		os.Exit(fake())
	}
	if name == handOver {
		if err := giveSocket(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if name == "bring" {
		fmt.Println(bring())
		os.Exit(1)
	}
	if os.Getenv(envInside) != "" {
		os.Exit(inside(m))
	}
	if reason := lacking(); reason != "" {
		if os.Getenv("BIELD_TEST_REQUIRE") == "1" {
			fmt.Println("FAIL: e2e tests are required but", reason)
			os.Exit(1)
		}
		fmt.Println("SKIP: e2e tests:", reason)
		os.Exit(0)
	}
	code, err := outside()
	if err != nil {
		fmt.Println("FAIL:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func lacking() string {
	if os.Geteuid() != 0 {
		return "they need root"
	}
	for _, program := range []string{fakes.QEMU(), "mmdebstrap", "mkfs.erofs", "ssh"} {
		if _, err := exec.LookPath(program); err != nil {
			return "there is no " + program + ": `make deps` gets it"
		}
	}
	return ""
}

func outside() (code int, err error) {
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 1, err
	}
	// A short path: the sockets below it have at most 108 bytes.
	base, err := os.MkdirTemp("", "e2e-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(base)) }()
	if err := os.Chmod(base, 0o755); err != nil {
		return 1, err
	}
	if err := buildPrograms(base); err != nil {
		return 1, err
	}
	if err := buildImages(base); err != nil {
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

// buildPrograms builds from the tree, as `make build` does.
func buildPrograms(base string) error {
	bin := filepath.Join(base, "bin")
	cmd := exec.Command("go", "build", "-ldflags", "-s -w -X main.version=e2e", "-o", bin+"/", "./cmd/bield", "./cmd/bieldd", "./cmd/bield-init", "./cmd/bield-probe")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build bield: %w: %s", err, out)
	}
	return nil
}

// Packages of the second image, beside the base image.
const extraPackage = "jq"

// buildImages fills the cache while there is a network.
func buildImages(base string) error {
	began := time.Now()
	for _, args := range [][]string{{"--disk"}, {"--package", extraPackage}} {
		cmd := exec.Command(filepath.Join(base, "bin", "bield"), append([]string{"image", "build", "--base"}, args...)...)
		cmd.Env = append(os.Environ(), "BIELD_RUN_DIR="+filepath.Join(base, "build"))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build images: %w: %s", err, out)
		}
	}
	fmt.Printf("e2e: images ready after %s\n", time.Since(began).Round(time.Millisecond))
	return endDaemon(filepath.Join(base, "bin"), filepath.Join(base, "build"))
}

// endDaemon ends the daemon of a run directory by its pid.
func endDaemon(bin, run string) error {
	pid, err := daemonPID(bin, run)
	if err != nil || pid == 0 {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return err
	}
	return waitFor(10*time.Second, "bieldd's end", func() bool {
		_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
		return syscall.Kill(pid, 0) != nil || zombie(pid)
	})
}

func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z")
}

func daemonPID(bin, run string) (int, error) {
	cmd := exec.Command(filepath.Join(bin, "bield"), "version")
	cmd.Env = append(os.Environ(), "BIELD_RUN_DIR="+run)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("bield version: %w: %s", err, out)
	}
	_, after, found := strings.Cut(string(out), "(pid ")
	if !found {
		return 0, nil
	}
	number, _, _ := strings.Cut(after, ")")
	return strconv.Atoi(number)
}

// leftRunning kills what the tests left behind and calls it a failure.
func leftRunning() error {
	var left []string
	// What a killed process leaves becomes ours in turn.
	for found := true; found; {
		found = false
		for _, p := range processes() {
			if p.parent == os.Getpid() && !zombie(p.pid) {
				left = append(left, fmt.Sprintf("%d %s", p.pid, p.command))
				_ = syscall.Kill(p.pid, syscall.SIGKILL)
				_, _ = syscall.Wait4(p.pid, nil, 0, nil)
				found = true
			}
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("processes outlived the tests: %s", strings.Join(left, "; "))
	}
	return nil
}

// waitFor polls for what has no event a test could wait on.
func waitFor(limit time.Duration, what string, done func() bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s did not come within %s", what, limit)
		case <-ticker.C:
		}
	}
	return nil
}
