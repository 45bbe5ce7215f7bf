package reconcile

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"bield/internal/spec"
	"bield/internal/state"
)

const alice = 1000

var aliceCalls = Caller{UID: alice, GID: alice}

func testEngine(t *testing.T) *Engine {
	t.Helper()
	run := state.Run{Dir: filepath.Join(t.TempDir(), "run")}
	if err := run.Make(); err != nil {
		t.Fatal(err)
	}
	events, err := openEventLog(t.Context(), run.Events())
	if err != nil {
		t.Fatal(err)
	}
	e := &Engine{
		Options: Options{Run: run, Log: slog.New(slog.DiscardHandler)}, events: events,
		applied: Applied{Origins: map[string]string{}}, vms: map[string]*machine{}, fates: map[string]Fate{}, claims: map[string]int{}, applying: map[string]chan struct{}{},
		closing: make(chan struct{}), changed: make(chan struct{}),
	}
	e.metrics = newMetrics(e)
	return e
}

func testHost(stateDir string, names ...string) spec.Host {
	host := spec.Host{
		Bridge: spec.DefaultBridge, Subnet: netip.MustParsePrefix("192.168.83.0/24"),
		StateDir: stateDir, Nameservers: spec.DefaultNameservers(),
	}
	for _, name := range names {
		// Addresses that follow from names, so that files do not clash by chance.
		ip := netip.AddrFrom4([4]byte{192, 168, 83, name[0]})
		host.VMs = append(host.VMs, spec.VM{
			Name: name, IP: ip, MAC: spec.DerivedMAC(name), MemoryMiB: 1024,
			Shares:     []spec.Share{{Tag: spec.WorkspaceTag, Source: "/home/alice/" + name, MountPoint: spec.WorkspaceMount}},
			User:       spec.User{Name: "alice", ID: spec.ID{UID: alice, GID: alice}, Home: "/home/alice", Shell: "/bin/zsh"},
			Hypervisor: spec.HypervisorAuto, Init: spec.InitBield, Restart: spec.RestartNever, StopTimeout: spec.DefaultStopTimeout,
		})
	}
	return host
}

func TestAcceptKeepsTheVMsOfOtherFiles(t *testing.T) {
	e, dir := testEngine(t), t.TempDir()
	for _, r := range []UpRequest{
		{Host: testHost(dir, "a", "b"), Origin: "/etc/passwd"},
		{Host: testHost(dir, "c"), Origin: "/etc/group"},
		{Host: testHost(dir, "b"), Origin: "/etc/passwd"},
	} {
		if _, err := e.accept(t.Context(), Caller{}, r, false); err != nil {
			t.Fatal(err)
		}
		settleAll(e)
	}
	if got := e.applied.Host.Names(); !slices.Equal(got, []string{"b", "c"}) {
		t.Errorf("applied: %v", got)
	}
	again, err := loadApplied(e.Run)
	if err != nil || !slices.Equal(again.Host.Names(), []string{"b", "c"}) || again.Origins["c"] != "/etc/group" {
		t.Errorf("on disk: %v %v", again, err)
	}
}

func TestAMovedFileTakesItsVMsAlong(t *testing.T) {
	e, dir := testEngine(t), t.TempDir()
	for _, origin := range []string{"/root/gone.yaml", "/etc/passwd"} {
		if _, err := e.accept(t.Context(), Caller{}, UpRequest{Host: testHost(dir, "a"), Origin: origin}, false); err != nil {
			t.Fatal(err)
		}
		settleAll(e)
	}
	if got := e.applied.Origins["a"]; got != "/etc/passwd" {
		t.Errorf("a is of %s", got)
	}
	if _, err := e.accept(t.Context(), Caller{}, UpRequest{Host: testHost(dir, "b"), Origin: "/root/gone.yaml"}, false); err != nil {
		t.Fatal(err)
	}
	settleAll(e)
	if _, err := e.accept(t.Context(), Caller{}, UpRequest{Host: testHost(dir, "c"), Origin: "/etc/group"}, false); err != nil {
		t.Fatal(err)
	}
	if got := e.applied.Host.Names(); !slices.Equal(got, []string{"a", "c"}) {
		t.Errorf("applied: %v: the VM of a file that is gone stays", got)
	}
}

func TestOnlyItsUserAndRootUseAVM(t *testing.T) {
	e, dir := testEngine(t), t.TempDir()
	if _, err := e.accept(t.Context(), Caller{}, UpRequest{Host: testHost(dir, "a"), Origin: "/etc/passwd"}, false); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		caller Caller
		kind   error
	}{{Caller{}, nil}, {aliceCalls, nil}, {Caller{UID: 1001, GID: alice}, ErrForbidden}} {
		if _, err := e.user(c.caller, "a"); !errors.Is(err, c.kind) {
			t.Errorf("%+v: %v", c.caller, err)
		}
	}
	if _, err := e.user(Caller{}, "z"); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if err := e.Down(t.Context(), Caller{UID: 1001}, []string{"a"}, true, func(Progress) {}); !errors.Is(err, ErrForbidden) {
		t.Errorf("down: %v", err)
	}
	if err := e.Logs(t.Context(), Caller{UID: 1001}, "a", false, nil); !errors.Is(err, ErrForbidden) {
		t.Errorf("logs: %v", err)
	}
}

// settleAll says that the ups of a test are over.
func settleAll(e *Engine) {
	for _, m := range e.vms {
		m.queue = nil
	}
}

func TestAcceptRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		caller Caller
		change func(*UpRequest)
		kind   error
		says   string
		// running says that the VM a of /etc/passwd runs.
		running bool
	}{
		"a VM the file does not declare": {Caller{}, func(r *UpRequest) { r.Names = []string{"z"} }, ErrNotFound, `no VM "z"; it has: a`, false},
		"a running VM of another file's": {Caller{}, func(r *UpRequest) { r.Origin = "/etc/other.yaml" }, ErrConflict, "declared by /etc/passwd", true},
		"an address of another file's": {Caller{}, func(r *UpRequest) {
			r.Origin = "/etc/other.yaml"
			r.Host.VMs[0].Name, r.Host.VMs[0].MAC = "n", spec.DerivedMAC("n")
		}, ErrConflict, "192.168.83.97", false},
		"what the rules forbid":           {Caller{}, func(r *UpRequest) { r.Host.VMs[0].Name = "../etc" }, ErrConflict, "../etc", false},
		"no path as its origin":           {Caller{}, func(r *UpRequest) { r.Origin = "/etc/\x1b[2J" }, ErrConflict, "origin", false},
		"another bridge by a user":        {aliceCalls, func(r *UpRequest) { r.Host.Bridge = "br1" }, ErrForbidden, "only root", false},
		"another folder by a user":        {aliceCalls, func(r *UpRequest) { r.Host.StateDir = "/etc" }, ErrForbidden, "only root", false},
		"another's VM by a user":          {Caller{UID: 1001, GID: alice}, func(*UpRequest) {}, ErrForbidden, "VM a has the user alice", false},
		"a group that the user is not in": {Caller{UID: alice, GID: 5}, func(*UpRequest) {}, ErrForbidden, "group 1000", false},
		"another's VM, under one's own name": {Caller{UID: 1001, GID: 1001}, func(r *UpRequest) {
			r.Host.VMs[0].User.ID = spec.ID{UID: 1001, GID: 1001}
		}, ErrConflict, "declared by /etc/passwd", false},
		"a mirror by a user, in a VM not asked for": {aliceCalls, func(r *UpRequest) {
			r.Host = testHost(r.Host.StateDir, "a", "b")
			r.Host.VMs[1].Image.Mirror, r.Names = "file:///etc", []string{"a"}
		}, ErrForbidden, "only root", false},
		"a keyring by a user": {aliceCalls, func(r *UpRequest) { r.Host.VMs[0].Image.Keyring = "/etc/shadow" }, ErrForbidden, "only root", false},
	} {
		t.Run(name, func(t *testing.T) {
			e := testEngine(t)
			// A file that exists keeps its VMs.
			if _, err := e.accept(t.Context(), Caller{}, UpRequest{Host: testHost(dir, "a"), Origin: "/etc/passwd"}, false); err != nil {
				t.Fatal(err)
			}
			settleAll(e)
			if c.running {
				e.machine("a").record = &Record{VM: e.applied.Host.VMs[0]}
			}
			r := UpRequest{Host: testHost(dir, "a"), Origin: "/etc/passwd"}
			c.change(&r)
			_, err := e.accept(t.Context(), c.caller, r, false)
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
			if got := e.applied.Host; got.StateDir != dir || !slices.Equal(got.Names(), []string{"a"}) {
				t.Errorf("applied: %v", got)
			}
		})
	}
}

func TestHostSettingsStayWhileVMsRun(t *testing.T) {
	e, dir := testEngine(t), t.TempDir()
	if _, err := e.accept(t.Context(), Caller{}, UpRequest{Host: testHost(dir, "a"), Origin: "/etc/first.yaml"}, false); err != nil {
		t.Fatal(err)
	}
	e.machine("a").record = &Record{VM: e.applied.Host.VMs[0]}
	changed := testHost(dir, "a")
	changed.Bridge = "br1"
	_, err := e.accept(t.Context(), Caller{}, UpRequest{Host: changed, Origin: "/etc/first.yaml"}, false)
	if !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "bield down a") {
		t.Errorf("got %v", err)
	}
	gone := testHost(dir, "b")
	if _, err := e.accept(t.Context(), Caller{}, UpRequest{Host: gone, Origin: "/etc/first.yaml"}, false); err != nil {
		t.Error(err)
	}
	if got := e.List(Caller{}); len(got) != 2 || got[0].Name != "a" {
		t.Errorf("a VM that runs and is declared no more is not listed: %v", got)
	}
}

func TestHostRecordGoesWhenItSaysNothing(t *testing.T) {
	e := testEngine(t)
	on := true
	for _, edit := range []func(*HostRecord){
		func(h *HostRecord) { h.Forwarding, h.Bridge = &on, "microbr" },
		func(h *HostRecord) { h.Forwarding = nil },
	} {
		if err := e.changeHost(edit); err != nil {
			t.Fatal(err)
		}
		if h, err := loadHost(e.Run); err != nil || h.Bridge != "microbr" {
			t.Errorf("%v %v", h, err)
		}
	}
	if err := e.changeHost(func(h *HostRecord) { h.Bridge = "" }); err != nil {
		t.Fatal(err)
	}
	var h HostRecord
	if err := state.Read(e.Run.HostRecord(), &h); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestEachVMMHasItsOwnUser(t *testing.T) {
	e := testEngine(t)
	seen := map[uint32]string{}
	for _, name := range []string{"a", "b", "c", "d"} {
		uid := e.freeUID(name)
		if other, taken := seen[uid]; taken {
			t.Errorf("%s and %s share uid %d", name, other, uid)
		}
		if uid < spec.VMMUIDBase || uid >= spec.VMMUIDBase+spec.VMMUIDCount {
			t.Errorf("uid %d is outside the range", uid)
		}
		seen[uid] = name
		if again := e.freeUID(name); again != uid {
			t.Errorf("%s: %d and then %d", name, uid, again)
		}
		// The next one would be given this uid too, were it free.
		e.machine(name).record = &Record{UID: uid}
	}
	clash := e.freeUID("e")
	e.machine("f").record = &Record{UID: clash}
	if e.freeUID("e") == clash {
		t.Error("a uid in use was given again")
	}
}
