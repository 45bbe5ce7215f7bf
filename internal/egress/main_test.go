package egress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"bield/internal/spec"
)

// processEnv makes the test binary the egress process.
const processEnv = "BIELD_TEST_EGRESS"

func TestMain(m *testing.M) {
	if os.Getenv(processEnv) != "" {
		os.Exit(Main(nil))
	}
	os.Exit(m.Run())
}

// process runs egress as bieldd does: as its own user, with nothing but the
// sockets. No Pdeathsig: that of a thread would be enough.
func startProcess(t *testing.T, i Inherited) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{processEnv + "=1"}
	cmd.ExtraFiles = i.Files
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: spec.EgressUID, Gid: spec.EgressUID},
	}
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// TestProcess: the confined process serves all that the others tests ask of Serve,
// without a policy nothing, and is followed by another on new sockets.
func TestProcess(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newStage(t)
	newWorld(t, s)
	s.client.Close()
	control := filepath.Join(t.TempDir(), "process.sock")
	for range 2 {
		opened, err := Open(t.Context(), netip.MustParseAddr(gatewayIP), control, logGroup+1)
		must(t, err)
		cmd := startProcess(t, opened)
		opened.Close()
		s.ports, s.client = opened.Ports, NewClient(control)
		empty, err := s.client.Status(t.Context())
		must(t, err)
		if empty.VMs != 0 || empty.Version != (Policy{}).Version() {
			t.Errorf("at the start: %+v", empty)
		}
		s.set(t, allowlist(t, "allowed.test"))
		s.resolved(t, "allowed.test", siteIP)
		must(t, s.tlsTo(t, siteIP+":443", "allowed.test"))
		if code, _ := s.get(t, siteIP+":80", "second.test"); code != 403 {
			t.Errorf("a forbidden name: %d", code)
		}
		confined(t, cmd.Process.Pid)
		must(t, cmd.Process.Signal(syscall.SIGTERM))
		must(t, cmd.Wait())
		// Closed, not open: nobody listens, and the kernel's rules stay.
		if err := s.tlsTo(t, siteIP+":443", "allowed.test"); err == nil {
			t.Error("without the process a connection goes through")
		}
		s.client.Close()
	}
}

// confined looks at the process from outside.
func confined(t *testing.T, pid int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	must(t, err)
	for _, want := range []string{"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("status lacks %q:\n%s", want, text)
		}
	}
	// Undumpable: its files in /proc belong to root.
	info, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid), "mem"))
	must(t, err)
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 0 {
		t.Errorf("/proc/%d belongs to %d", pid, uid)
	}
}

// TestControlIsRoots: another user's connection is closed.
func TestControlIsRoots(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newStage(t)
	if _, err := s.client.Set(t.Context(), Policy{}); err == nil {
		t.Error("a policy without a gateway was taken")
	}
	control := filepath.Join(t.TempDir(), "open.sock")
	l, err := net.Listen("unix", control)
	must(t, err)
	defer l.Close()
	taken := make(chan error, 1)
	go func() {
		c, err := rootOnly{l}.Accept()
		if err == nil {
			c.Close()
		}
		taken <- err
	}()
	must(t, os.Chmod(control, 0o777))
	must(t, os.Chmod(filepath.Dir(control), 0o755))
	must(t, os.Chmod(filepath.Dir(filepath.Dir(control)), 0o755))
	onThread(t, func() error {
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			return errno
		}
		c, err := net.Dial("unix", control)
		if err != nil {
			return err
		}
		defer c.Close()
		must(t, c.SetDeadline(time.Now().Add(5*time.Second)))
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			return errors.New("another user's connection stays open")
		}
		return nil
	})
	l.Close()
	if err := <-taken; err == nil {
		t.Error("another user's connection was taken")
	}
}

// TestNothingStays: after the end of Serve nothing of a connection is left.
func TestNothingStays(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	t.Run("life", func(t *testing.T) {
		s := newStage(t)
		newWorld(t, s)
		s.set(t, allowlist(t, "allowed.test", "allowed.test:22"))
		s.resolved(t, "allowed.test", siteIP)
		for range 20 {
			must(t, s.tlsTo(t, siteIP+":443", "allowed.test"))
			_, _ = s.get(t, siteIP+":80", "allowed.test")
			_, _ = s.dial(t, siteIP+":22")
		}
	})
	goleak.VerifyNone(t)
}

// TestManyConnections: a VM has its bound, and gets its places back.
func TestManyConnections(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newStage(t)
	newWorld(t, s)
	s.set(t, allowlist(t, "allowed.test:22"))
	s.resolved(t, "allowed.test", siteIP)
	var open []net.Conn
	for range maxConnsVM + 20 {
		if c, err := s.dial(t, siteIP+":22"); err == nil {
			open = append(open, c)
		}
	}
	s.denied(t, "too many connections")
	for _, c := range open {
		c.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for ctx.Err() == nil { // until the proxy has seen them go
		c, err := s.dial(t, siteIP+":22")
		must(t, err)
		if n, _ := c.Read(make([]byte, 4)); n > 0 {
			return
		}
	}
	t.Error("the places of closed connections are not given back")
}
