package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"bield/internal/reconcile"
	"bield/internal/spec"
)

// guestUID is a host user that the machine need not know.
const (
	guestUID = 4711
	guestGID = 4712
)

// host is one bield on the machine that the namespaces make.
type host struct {
	base, bin  string
	run, state string
	config     string
	cache      string
	caller     *syscall.Credential // nil: root
}

// newHost makes a bield with its own run directory and state folder, and ends
// it with the test.
func newHost(t *testing.T) *host {
	t.Helper()
	base, err := os.MkdirTemp(os.Getenv(envInside), "h")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	h := &host{
		base: base, bin: filepath.Join(os.Getenv(envInside), "bin"),
		run: filepath.Join(base, "run"), state: filepath.Join(base, "state"), config: filepath.Join(base, "etc", "bield.yaml"),
	}
	if err := os.Mkdir(filepath.Dir(h.config), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.end(t) })
	return h
}

// end stops whatever a failed test left, then the daemon.
func (h *host) end(t *testing.T) {
	if t.Failed() {
		log, _ := os.ReadFile(filepath.Join(h.run, "bieldd.log"))
		t.Logf("bieldd.log:\n%s", log)
	}
	if _, err := os.Stat(filepath.Join(h.run, "bieldd.sock")); err == nil {
		if out, err := h.command("down", "--all", "--force").CombinedOutput(); err != nil {
			t.Errorf("down --all: %v: %s", err, out)
		}
	}
	if err := endDaemon(h.bin, h.run); err != nil {
		t.Error(err)
	}
}

// folder makes a folder on the host that belongs to uid.
func (h *host) folder(t *testing.T, name string, uid, gid int) string {
	t.Helper()
	path := filepath.Join(h.base, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, uid, gid); err != nil {
		t.Fatal(err)
	}
	return path
}

// write makes a file on the host that belongs to the guest's user.
func (h *host) write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, guestUID, guestGID); err != nil {
		t.Fatal(err)
	}
	return path
}

// configure writes bield.yaml; STATE stands for the state folder, and the user
// is the tests' own.
func (h *host) configure(t *testing.T, vms string) {
	t.Helper()
	text := fmt.Sprintf("stateDir: %s\nuser: {name: dev, uid: %d, gid: %d}\nvms:\n%s", h.state, guestUID, guestGID, vms)
	if err := os.WriteFile(h.config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (h *host) command(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(h.bin, "bield"), append([]string{"-c", h.config}, args...)...)
	cmd.Env = append(os.Environ(), "BIELD_RUN_DIR="+h.run, "HOME="+h.base)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: h.caller}
	if h.cache != "" {
		cmd.Env = append(cmd.Env, "BIELD_CACHE_DIR="+h.cache)
	}
	return cmd
}

// bield runs a verb that must succeed, and returns its standard output.
func (h *host) bield(t *testing.T, args ...string) string {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd := h.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		t.Fatalf("bield %s: %v\n%s%s", strings.Join(args, " "), err, out.String(), errOut.String())
	}
	return out.String()
}

// fails runs a verb that must not succeed, and returns all it said.
func (h *host) fails(t *testing.T, args ...string) string {
	t.Helper()
	out, err := h.command(args...).CombinedOutput()
	if err == nil {
		t.Fatalf("bield %s succeeded:\n%s", strings.Join(args, " "), out)
	}
	return string(out)
}

// in runs a shell line in a guest that must succeed.
func (h *host) in(t *testing.T, vm, line string) string {
	t.Helper()
	return strings.TrimSpace(h.bield(t, "ssh", vm, "--", line))
}

// try runs a shell line in a guest and returns its output and exit code.
func (h *host) try(t *testing.T, vm, line string) (string, int) {
	t.Helper()
	cmd := h.command("ssh", vm, "--", line)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out)), cmd.ProcessState.ExitCode()
}

func (h *host) list(t *testing.T) []spec.VMStatus {
	t.Helper()
	var vms []spec.VMStatus
	if err := json.Unmarshal([]byte(h.bield(t, "ls", "--json")), &vms); err != nil {
		t.Fatal(err)
	}
	return vms
}

func (h *host) status(t *testing.T, name string) spec.VMStatus {
	t.Helper()
	vms := h.list(t)
	i := slices.IndexFunc(vms, func(v spec.VMStatus) bool { return v.Name == name })
	if i < 0 {
		t.Fatalf("ls does not show %s: %v", name, vms)
	}
	return vms[i]
}

// proc is a process as /proc shows it.
type proc struct {
	pid, parent int
	command     string
}

func processes() []proc {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var all []proc
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		parent, _ := strconv.Atoi(field(string(status), "PPid"))
		all = append(all, proc{pid, parent, string(bytes.ReplaceAll(line, []byte{0}, []byte{' '}))})
	}
	return all
}

// field reads one line of /proc/PID/status.
func field(status, name string) string {
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// serving lists the processes of this host that serve a guest: the daemon's
// children, and those that lost an earlier daemon and so are the outer
// process's.
func (h *host) serving(t *testing.T) []proc {
	t.Helper()
	pid, err := daemonPID(h.bin, h.run)
	if err != nil {
		t.Fatal(err)
	}
	var found []proc
	for _, p := range processes() {
		orphan := p.parent == os.Getppid() && p.pid != os.Getpid() && p.pid != pid
		if (orphan || pid != 0 && p.parent == pid) && !zombie(p.pid) {
			found = append(found, p)
		}
	}
	return found
}

func owner(t *testing.T, path string) (uid, gid uint32) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatal("no stat")
	}
	return st.Uid, st.Gid
}

// direct runs a shell line in a guest by OpenSSH alone, as the host's root: no
// daemon is asked for it, or started.
func (h *host) direct(t *testing.T, vm, line string) string {
	t.Helper()
	var record reconcile.Record
	data, err := os.ReadFile(filepath.Join(h.run, "records", vm+".json"))
	if err == nil {
		err = json.Unmarshal(data, &record)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("ssh", "-F", "none", "-i", filepath.Join(h.state, "_bield", "keys", "bieldd", "id_ed25519"),
		"-o", "UserKnownHostsFile="+filepath.Join(h.run, "vms", vm, "known_hosts"), "-o", "HostKeyAlias="+vm+".bield",
		record.VM.User.Name+"@"+record.VM.IP.String(), "--", line)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("ssh %s -- %s: %v: %s", vm, line, err, out)
	}
	return strings.TrimSpace(string(out))
}
