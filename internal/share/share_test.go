package share

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bield/internal/process"
	"bield/internal/spec"
)

const owner, ownersGroup, vmm = 54331, 54332, 54333

func TestArguments(t *testing.T) {
	cfg := Config{UID: 1000, GID: 100}
	readOnly, image := cfg, cfg
	readOnly.ReadOnly = true
	image.ImageRoot = true
	for name, args := range map[string][]string{
		"owner":          Arguments(cfg, false),
		"owner-handles":  Arguments(cfg, true),
		"owner-readonly": Arguments(readOnly, false),
		"image":          Arguments(image, false),
		"image-handles":  Arguments(image, true),
	} {
		golden(t, name, strings.Join(args, "\n")+"\n")
	}
}

// ownersFolder is a folder of owner's with a file named marker.
func ownersFolder(t *testing.T) string {
	t.Helper()
	needRoot(t)
	dir := filepath.Join(publicDir(t), "folder")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "marker"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	chown(t, dir, owner, ownersGroup)
	chown(t, filepath.Join(dir, "marker"), owner, ownersGroup)
	return dir
}

func chown(t *testing.T, path string, uid, gid int) {
	t.Helper()
	if err := os.Lchown(path, uid, gid); err != nil {
		t.Fatal(err)
	}
}

func config(t *testing.T, dir string) Config {
	t.Helper()
	folder, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { folder.Close() })
	run := publicDir(t)
	return Config{
		Tag: "workspace", Dir: folder, Socket: filepath.Join(run, "workspace.sock"), SocketUID: vmm, SocketGID: vmm,
		UID: owner, GID: ownersGroup, Log: filepath.Join(run, "workspace.log"),
	}
}

func TestStart(t *testing.T) {
	dir := ownersFolder(t)
	cfg := config(t, dir)
	// What was opened is served, whatever the path becomes.
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", dir); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds the socket of the first
		p, err := Start(t.Context(), fakeCommand(t), cfg)
		if err != nil {
			t.Fatal(err)
		}
		checkSocket(t, cfg.Socket)
		conn, err := net.Dial("unix", cfg.Socket)
		if err != nil {
			t.Fatal(err)
		}
		var report fakeReport
		if err := json.NewDecoder(conn).Decode(&report); err != nil {
			t.Fatal(err, process.TailLog(cfg.Log, 5))
		}
		conn.Close()
		if !slices.Equal(report.Names, []string{"marker"}) || report.UID != owner || !slices.Contains(report.Args, "--fd=3") {
			t.Errorf("virtiofsd saw %+v", report)
		}
		waitEnd(t, p)
	}
}

func waitEnd(t *testing.T, p *process.Process) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(20 * time.Second):
		_ = p.Kill()
		t.Error("virtiofsd goes on after its VMM left")
	}
}

func checkSocket(t *testing.T, path string) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	if st.Mode != unix.S_IFSOCK|0o600 || st.Uid != vmm || st.Gid != vmm {
		t.Errorf("mode %o, owner %d:%d", st.Mode, st.Uid, st.Gid)
	}
}

func TestStartErrors(t *testing.T) {
	for _, test := range []struct {
		name, want string
		command    []string
		change     func(*Config)
	}{
		{"none", "bield setup", nil, func(*Config) {}},
		{"missing", "bield setup", []string{"/nowhere/virtiofsd"}, func(*Config) {}},
		{"no folder", "no folder", []string{"/bin/true"}, func(c *Config) { c.Dir = nil }},
		{"long path", "BIELD_RUN_DIR", []string{"/bin/true"}, func(c *Config) { c.Socket = "/tmp/" + strings.Repeat("x", 110) }},
		{"file in the way", "is none", []string{"/bin/true"}, func(c *Config) { c.Socket = c.Log }},
		{"host root", "host uid 0", []string{"/bin/true"}, func(c *Config) { c.UID = 0 }},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := config(t, ownersFolder(t))
			if err := os.WriteFile(cfg.Log, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			test.change(&cfg)
			p, err := Start(t.Context(), test.command, cfg)
			if err == nil {
				_ = p.Kill()
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "share workspace") {
				t.Errorf("error %q, want %q in it", err, test.want)
			}
			if cfg.Socket != cfg.Log {
				if _, err := os.Lstat(cfg.Socket); !os.IsNotExist(err) {
					t.Errorf("the socket is left: %v", err)
				}
			}
		})
	}
}

// TestRealServers checks who the real virtiofsd is, in each way it is started.
func TestRealServers(t *testing.T) {
	command := realCommand(t)
	limit, err := process.FileLimit(wantFiles)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		uid    uint32
		change func(*Config)
	}{
		{"owner", owner, func(*Config) {}},
		{"read only", owner, func(c *Config) { c.ReadOnly = true }},
		{"image", spec.ImageUIDBase, func(c *Config) { c.ImageRoot = true }},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := ownersFolder(t)
			chown(t, dir, int(test.uid), int(test.uid))
			cfg := config(t, dir)
			test.change(&cfg)
			p, err := Start(t.Context(), command, cfg)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = p.Kill() })
			server := waitServing(t, p, cfg.Log)
			checkServer(t, server, test.uid, limit)
			for _, pid := range processGroup(t, p.ID().PID) {
				checkHelper(t, pid, test.uid)
			}
			conn, err := net.Dial("unix", cfg.Socket)
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			waitEnd(t, p)
			if lines := process.TailLog(cfg.Log, 9); slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, "ERROR") }) {
				t.Errorf("log %q", lines)
			}
		})
	}
}

// waitServing waits for the process whose root is the shared folder to wait for
// its VMM.
func waitServing(t *testing.T, p *process.Process, log string) int {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		for _, pid := range processGroup(t, p.ID().PID) {
			_, err := os.Stat(fmt.Sprintf("/proc/%d/root/marker", pid))
			if err == nil && accepting(pid) {
				return pid
			}
		}
		select {
		case <-p.Done():
			t.Fatalf("virtiofsd: %s: %q", p.Exit(), process.TailLog(log, 9))
		default:
		}
	}
	t.Fatalf("virtiofsd does not serve: %q", process.TailLog(log, 9))
	return 0
}

// accepting says that the process hangs in accept(2) or accept4(2): their
// numbers on amd64 and arm64.
func accepting(pid int) bool {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
	number, _, _ := strings.Cut(string(text), " ")
	return slices.Contains([]string{"43", "288", "202", "242"}, number)
}

func status(t *testing.T, pid int) map[string]string {
	t.Helper()
	fields := map[string]string{}
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		fields[key] = strings.Join(strings.Fields(value), " ")
	}
	return fields
}

// processGroup lists a process group by /proc.
func processGroup(t *testing.T, pgid int) []int {
	t.Helper()
	var pids []int
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscan(e.Name(), &pid); err != nil {
			continue
		}
		if group, err := unix.Getpgid(pid); err == nil && group == pgid {
			pids = append(pids, pid)
		}
	}
	return pids
}

func namespace(t *testing.T, pid any, kind string) string {
	t.Helper()
	link, err := os.Readlink(fmt.Sprintf("/proc/%v/ns/%s", pid, kind))
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// checkServer checks the process that talks to the guest.
func checkServer(t *testing.T, pid int, uid uint32, limit uint64) {
	t.Helper()
	s := status(t, pid)
	if s["Uid"] != fmt.Sprintf("%d %[1]d %[1]d %[1]d", uid) || s["NoNewPrivs"] != "1" {
		t.Errorf("uid %s, no_new_privs %s", s["Uid"], s["NoNewPrivs"])
	}
	for _, kind := range []string{"user", "mnt", "pid", "net"} {
		if namespace(t, pid, kind) == namespace(t, "self", kind) {
			t.Errorf("virtiofsd is in the host's %s namespace", kind)
		}
	}
	if uid == spec.ImageUIDBase && s["CapEff"] != "0000000000000004" {
		t.Errorf("capabilities of the image's server: %s", s["CapEff"])
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if want := fmt.Sprintf("%-21d%-21dfiles", limit, limit); err != nil || !strings.Contains(string(limits), want) {
		t.Errorf("want a limit of %d files: %s", limit, limits)
	}
}

// checkHelper checks any process of the share: those in the host's user
// namespace have no capability but the one that file handles need.
func checkHelper(t *testing.T, pid int, uid uint32) {
	t.Helper()
	s := status(t, pid)
	if s["Uid"] != fmt.Sprintf("%d %[1]d %[1]d %[1]d", uid) || s["NoNewPrivs"] != "1" || s["Groups"] != "" {
		t.Errorf("%s: uid %s, groups %s, no_new_privs %s", s["Name"], s["Uid"], s["Groups"], s["NoNewPrivs"])
	}
	if namespace(t, pid, "user") == namespace(t, "self", "user") && strings.Trim(s["CapPrm"], "0") != "" && s["CapPrm"] != "0000000000000004" {
		t.Errorf("%s: capabilities %s on the host", s["Name"], s["CapPrm"])
	}
}
