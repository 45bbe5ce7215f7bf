package preflight

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"bield/internal/process"
	"bield/internal/state"
)

func TestAccess(t *testing.T) {
	const group = "root:x:0:\nbield:x:990:eve,dev\n"
	const users = "root:x:0:0::/:/bin/sh\ndev:x:1000:1000::/:/bin/sh\nann:x:1001:1001::/:/bin/sh\n"
	tests := []struct {
		name, group string
		uid         int
		groups      []int
		want        State
		words       string
	}{
		{"root", group, 0, nil, OK, "members of the group bield"},
		{"root, no group", "root:x:0:\n", 0, nil, OK, "bield setup"},
		{"member", group, 1000, []int{1000, 990}, OK, "a member"},
		{"member since", group, 1000, []int{1000}, Warn, "log in again"},
		{"not a member", group, 1001, []int{1001}, Warn, "usermod -aG bield"},
		{"no group", "", 1001, []int{1001}, Warn, "sudo bield setup"},
		{"unknown user", group, 4711, nil, Warn, "usermod"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := fakeHost(t, map[string]string{"etc/group": tt.group, "etc/passwd": users})
			h.UID, h.Groups = tt.uid, tt.groups
			expect(t, h.access(), tt.want, tt.words)
		})
	}
}

func TestDaemon(t *testing.T) {
	tests := []struct {
		name  string
		d     Daemon
		want  State
		words string
	}{
		{"none", Daemon{}, OK, "none runs"},
		{"same", Daemon{Runs: true, Version: "1", Wanted: "1", PID: 7}, OK, "(pid 7)"},
		{"other version", Daemon{Runs: true, Version: "1", Wanted: "2", PID: 7, End: "sudo kill 7"}, Warn, "sudo kill 7"},
		{"other API", Daemon{Runs: true, OtherAPI: true, Version: "1", Wanted: "2", PID: 7, End: "sudo kill 7"}, Fail, "sudo kill 7"},
		{"closed", Daemon{Closed: true}, Skipped, "sudo bield doctor"},
		{"mute", Daemon{Err: errors.New("timeout")}, Fail, "bieldd.log"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := fakeHost(t, nil)
			h.Daemon = func(context.Context) Daemon { return tt.d }
			expect(t, h.daemon(t.Context()), tt.want, tt.words)
		})
	}
}

func TestPrograms(t *testing.T) {
	h := Host{Programs: func(context.Context) ([]Program, error) {
		return []Program{
			{Name: "good", Path: "/usr/bin/good", Version: "7.2"},
			{Name: "lacking", Purpose: "runs the VMs", Do: []string{"sudo bield setup"}},
			{Name: "old", Purpose: "shares", Path: "/old", Problem: "/old is 1.10", Do: []string{"sudo bield setup"}},
			{Name: "nft", Purpose: "shows rules", Optional: true, Do: []string{"sudo bield setup"}},
		}, nil
	}}
	got := h.programs(t.Context())
	expect(t, got[0], OK, "7.2, /usr/bin/good")
	expect(t, got[1], Fail, "is not installed; it runs the VMs", "sudo bield setup")
	expect(t, got[2], Fail, "/old is 1.10")
	expect(t, got[3], Warn, "is not installed")
	h.Programs = func(context.Context) ([]Program, error) { return nil, context.DeadlineExceeded }
	if got := h.programs(t.Context()); len(got) != 1 || got[0].Name != "programs" || got[0].State != Warn {
		t.Errorf("%+v", got)
	}
}

func TestFolders(t *testing.T) {
	needRoot(t)
	base := closed(t)
	h := Host{Run: state.Run{Dir: base + "/run"}, Cache: state.Cache{Dir: base + "/cache"}}
	h.Config.Host.StateDir = base + "/state"
	expect(t, h.folders(), OK)
	must(t, errors.Join(h.Run.Make(), h.Cache.Make(), state.Folder{Dir: base + "/state"}.Make()))
	expect(t, h.folders(), OK)
	must(t, os.Chmod(base+"/state/_bield/keys", 0o777))
	expect(t, h.folders(), Fail, base+"/state/_bield/keys may be written by others")
	must(t, os.Chmod(base+"/state/_bield/keys", 0o711))
	must(t, os.Chown(base+"/run", 4711, 4711))
	if r := h.folders(); r.State != Fail || !strings.Contains(r.Found, "belongs to uid 4711") || strings.Contains(r.Found, "\n") {
		t.Errorf("%+v", r)
	}
	must(t, os.Chown(base+"/run", 0, 0))
	must(t, os.Chmod(base+"/cache", 0o700))
	expect(t, h.folders(), Fail, base+"/cache lets others not pass", "sudo chmod o+x "+base+"/cache")
}

// closed is a folder that nobody else writes, all the way.
func closed(t *testing.T) string {
	t.Helper()
	base := t.TempDir()
	must(t, errors.Join(os.Chmod(base, 0o755), os.Chmod(filepath.Dir(base), 0o755)))
	return base
}

func TestRecords(t *testing.T) {
	h := fakeHost(t, nil)
	runs, mute := false, error(nil)
	h.Daemon = func(context.Context) Daemon { return Daemon{Runs: runs, Err: mute} }
	expect(t, h.records(t.Context()), OK, "none")
	must(t, h.Run.Make())
	write := func(vm, text string) { must(t, os.WriteFile(h.Run.Record(vm), []byte(text), 0o600)) }
	write("gone", `{"vmm":{"pid":1,"startTime":1,"bootID":"another"},"shares":[{"tag":"x"}]}`)
	expect(t, h.records(t.Context()), Warn, "processes are gone: gone", "sudo bield ls", "removes")
	runs = true
	expect(t, h.records(t.Context()), OK, "1, of which bieldd takes care")
	runs, mute = false, context.DeadlineExceeded
	expect(t, h.records(t.Context()), Skipped, "does not answer")
	mute = nil
	must(t, os.Remove(h.Run.Record("gone")))
	write("half", `{"shares":[{"tag":"x","process":`+self(t)+`}]}`)
	expect(t, h.records(t.Context()), Warn, "no bieldd takes care of them: half", "takes them over")
	write("torn", `{"vmm":`)
	expect(t, h.records(t.Context()), Fail, h.Run.Record("torn"), "remove the file")
	must(t, os.Remove(h.Run.Record("torn")))
	must(t, os.WriteFile(h.Run.HostRecord(), []byte("{"), 0o600))
	expect(t, h.records(t.Context()), Fail, h.Run.HostRecord())
}

// self is this process as a record has it.
func self(t *testing.T) string {
	t.Helper()
	stat, err := os.ReadFile("/proc/self/stat")
	must(t, err)
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	must(t, err)
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	start, err := strconv.ParseUint(fields[19], 10, 64)
	must(t, err)
	id, err := json.Marshal(process.ID{PID: os.Getpid(), StartTime: start, BootID: strings.TrimSpace(string(boot))})
	must(t, err)
	return string(id)
}

func TestSystemd(t *testing.T) {
	const booted, unitFile = "run/systemd/system/", "usr/lib/systemd/system/bieldd.service"
	expect(t, fakeHost(t, nil).systemd(), Skipped, "does not run this machine")
	expect(t, fakeHost(t, map[string]string{booted: ""}).systemd(), OK, "is not installed")
	expect(t, fakeHost(t, map[string]string{booted: "", unitFile: ""}).systemd(), Warn, "sudo systemctl enable --now bieldd.service")
	expect(t, fakeHost(t, map[string]string{booted: "", unitFile: "", "etc/systemd/system/multi-user.target.wants/bieldd.service": ""}).systemd(), OK, "enabled")
}
