package config

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"bield/internal/spec"
)

const oneVM = "vms: {a: {ip: 192.168.83.2, workspace: ~/src/app}}\n"

func TestDefaults(t *testing.T) {
	h := mustParse(t, oneVM)
	if h.Bridge != "microbr" || h.Subnet.String() != "192.168.83.0/24" || h.StateDir != "/var/lib/bield" || h.ExternalInterface != "" {
		t.Errorf("host: %+v", h)
	}
	if !slices.Equal(h.Nameservers, spec.DefaultNameservers()) {
		t.Errorf("name servers %v", h.Nameservers)
	}
	v := h.VMs[0]
	if v.VCPU != 0 || v.MemoryMiB != 4096 || v.Autostart || v.StoreOnDisk || v.StopTimeout != 10*time.Second ||
		v.Hypervisor != spec.HypervisorAuto || v.Init != spec.InitBield || v.Workspace() != "/home/alice/src/app" {
		t.Errorf("VM: %+v", v)
	}
	if v.User.Name != "alice" || v.User.UID != 1000 || v.User.Home != "/home/alice" || v.User.Shell != "/bin/zsh" ||
		v.User.Explicit || !slices.Equal(v.User.AuthorizedKeys, []string{aliceKey}) {
		t.Errorf("user: %+v", v.User)
	}
}

func TestHostWithoutVMs(t *testing.T) {
	for _, yaml := range []string{"vms: {}\n", "bridge: br0\n"} {
		if h := mustParse(t, yaml); h.VMs == nil || len(h.VMs) != 0 {
			t.Errorf("%s: VMs %v", yaml, h.VMs)
		}
	}
	for yaml, want := range map[string]string{
		"hypervisor: xen":                      "1:13: hypervisor: \"xen\" is unknown",
		"stopTimeout: 2h":                      "1:14: stopTimeout: 2h0m0s is out of range",
		"stopTimeout: x":                       "1:14: stopTimeout: \"x\" is no duration",
		"user: {name: root}":                   "user.name:",
		"user: {shell: zsh}":                   "user.shell:",
		"image: {suite: a b}":                  "image.suite:",
		"user: {authorizedKeys: [ssh-rsa x]}}": "no YAML",
		"user: {authorizedKeys: [ssh-rsa x]}":  "user.authorizedKeys[0]:",
	} {
		if got := errorOf(t, yaml); !strings.Contains(got, want) {
			t.Errorf("%s: %s", yaml, got)
		}
	}
}

func TestSubnets(t *testing.T) {
	for text, want := range map[string]string{
		"192.168.83": "192.168.83.0/24", "10.20.0.0/16": "10.20.0.0/16", "192.168.83.0/28": "192.168.83.0/28", "'10.0.0'": "10.0.0.0/24",
	} {
		if h := mustParse(t, "subnet: "+text+"\n"); h.Subnet != netip.MustParsePrefix(want) {
			t.Errorf("%s: %s, want %s", text, h.Subnet, want)
		}
	}
	for text, want := range map[string]string{
		"10.0": "must be text", "'10.0'": "is no subnet", "10": "must be text", "192.168.83.0": "is no subnet",
		"192.168.83.1/24": "write 192.168.83.0/24", "192.168.300": "is no subnet", "fd00::/64": "not IPv4", "10.0.0.0/33": "is no subnet",
	} {
		if got := errorOf(t, "subnet: "+text+"\n"); !strings.Contains(got, "1:9: subnet: ") || !strings.Contains(got, want) {
			t.Errorf("%s: %s", text, got)
		}
	}
}

func TestNumbers(t *testing.T) {
	for text, want := range map[string]int{"4096": 4096, "4G": 4096, "512M": 512, "512m": 512, "'2048'": 2048, "2g": 2048, "128": 128} {
		h := mustParse(t, "vms: {a: {ip: 192.168.83.2, workspace: ~/src/app, mem: "+text+"}}")
		if got := h.VMs[0].MemoryMiB; got != want {
			t.Errorf("mem %s: %d, want %d", text, got, want)
		}
	}
	for text, want := range map[string]string{
		"127": "at least 128", "0": "no memory size", "-1": "no memory size", "16385": "more than the 16384 MB", "999999999G": "more than",
		"4GB": "no memory size", "4_096": "whole number", "1e3": "must be text", "4.5": "must be text", "true": "must be text",
	} {
		if got := errorOf(t, "vms: {a: {ip: 192.168.83.2, workspace: ~/src/app, mem: "+text+"}}"); !strings.Contains(got, "vms.a.mem: ") || !strings.Contains(got, want) {
			t.Errorf("mem %s: %s", text, got)
		}
	}
	for text, want := range map[string]time.Duration{"30": 30 * time.Second, "1m30s": 90 * time.Second, "1500ms": 1500 * time.Millisecond} {
		if got := mustParse(t, "stopTimeout: "+text+"\n"+oneVM).VMs[0].StopTimeout; got != want {
			t.Errorf("stopTimeout %s: %s, want %s", text, got, want)
		}
	}
	for _, text := range []string{"0", "-5", "2h", "99999999999999999999s", "1d", "0.5s"} {
		if got := errorOf(t, "stopTimeout: "+text+"\n"+oneVM); !strings.Contains(got, "1:14: stopTimeout: ") {
			t.Errorf("stopTimeout %s: %s", text, got)
		}
	}
}

// TestMemoryOfTheHost: the default counts too.
func TestMemoryOfTheHost(t *testing.T) {
	env := newFakeHost().env()
	env.MemoryMiB = 2048
	if _, err := Parse("f", []byte(oneVM), env); err == nil || !strings.Contains(err.Error(), "default of 4096 MB") {
		t.Errorf("got %v", err)
	}
	env.MemoryMiB = 0
	if _, err := Parse("f", []byte(oneVM), env); err != nil {
		t.Errorf("unknown memory: %v", err)
	}
}

func TestUsers(t *testing.T) {
	tests := []struct {
		name, host, vm string
		want           spec.User
	}{
		{"named", "{name: bob}", "", spec.User{Name: "bob", ID: spec.ID{UID: 1001, GID: 100}, Home: "/home/bob", Shell: "/bin/zsh", Explicit: true}},
		{"by uid", "{uid: 1001}", "", spec.User{Name: "bob", ID: spec.ID{UID: 1001, GID: 100}, Home: "/home/bob", Shell: "/bin/zsh", Explicit: true}},
		{"not of the host", "{name: agent, uid: 5000}", "",
			spec.User{Name: "agent", ID: spec.ID{UID: 5000, GID: 5000}, Home: "/home/agent", Shell: "/bin/zsh", AuthorizedKeys: []string{aliceKey}, Explicit: true}},
		{"another name for a uid", "{name: agent, uid: 1000}", "",
			spec.User{Name: "agent", ID: spec.ID{UID: 1000, GID: 1000}, Home: "/home/agent", Shell: "/bin/zsh", AuthorizedKeys: []string{aliceKey}, Explicit: true}},
		{"only a shell", "{shell: /bin/bash}", "",
			spec.User{Name: "alice", ID: spec.ID{UID: 1000, GID: 1000}, Home: "/home/alice", Shell: "/bin/bash", AuthorizedKeys: []string{aliceKey}}},
		{"the VM's shell over the host's person", "{name: bob, gid: 200}", "{shell: /bin/bash}",
			spec.User{Name: "bob", ID: spec.ID{UID: 1001, GID: 200}, Home: "/home/bob", Shell: "/bin/bash", Explicit: true}},
		{"the VM's person over the host's", "{name: bob, gid: 200, home: /home/b, shell: /bin/bash}", "{name: alice}",
			spec.User{Name: "alice", ID: spec.ID{UID: 1000, GID: 1000}, Home: "/home/alice", Shell: "/bin/bash", AuthorizedKeys: []string{aliceKey}, Explicit: true}},
		{"keys and home", "{authorizedKeys: [], home: /home/x}", "", spec.User{Name: "alice", ID: spec.ID{UID: 1000, GID: 1000}, Home: "/home/x", Shell: "/bin/zsh"}},
	}
	for _, tt := range tests {
		yaml := "user: " + tt.host + "\nvms: {a: {ip: 192.168.83.2, workspace: /home/alice/src/app"
		if tt.vm != "" {
			yaml += ", user: " + tt.vm
		}
		got := mustParse(t, yaml+"}}").VMs[0].User
		if !equalUser(got, tt.want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", tt.name, got, tt.want)
		}
	}
}

func equalUser(a, b spec.User) bool {
	return a.Name == b.Name && a.ID == b.ID && a.Home == b.Home && a.Shell == b.Shell && a.Explicit == b.Explicit &&
		slices.Equal(a.AuthorizedKeys, b.AuthorizedKeys)
}

// TestDefaultUser: the owner of the workspace, who called sudo, the caller, nobody.
func TestDefaultUser(t *testing.T) {
	h := newFakeHost()
	h.dirs(spec.ID{}, "/srv/ro")
	yaml := "vms: {a: {ip: 192.168.83.2, workspace: /home/bob/src}}"
	env := h.env()
	got, err := Parse("f", []byte(yaml), env)
	if err != nil || got.VMs[0].User.Name != "bob" {
		t.Errorf("owner: %v %v", got, err)
	}
	env.Sudo = nil
	root := []byte("vms: {a: {ip: 192.168.83.2, workspace: /srv/rootowned}}")
	if _, err := Parse("f", root, env); err == nil || !strings.Contains(err.Error(), "set `user`") {
		t.Errorf("root alone: %v", err)
	}
}

func TestHomeOfTilde(t *testing.T) {
	for user, want := range map[string]string{
		"{name: bob}":              "/home/bob/src",
		"{name: agent, uid: 5000}": "/home/alice/src",
		"{name: bob, home: /h}":    "/home/bob/src",
	} {
		h := mustParse(t, "user: "+user+"\nvms: {a: {ip: 192.168.83.2, workspace: ~/src}}")
		if got := h.VMs[0].Workspace(); got != want {
			t.Errorf("%s: %s, want %s", user, got, want)
		}
	}
	env := newFakeHost().env()
	env.Sudo = nil
	_, err := Parse("f", []byte("vms: {a: {ip: 192.168.83.2, workspace: ~/x}}"), env)
	if err == nil || !strings.Contains(err.Error(), "/root/hidden") {
		t.Errorf("the caller's home: %v", err)
	}
}

func TestShares(t *testing.T) {
	h := mustParse(t, `
shares:
  - source: ~/.claude
vms:
  a:
    ip: 192.168.83.2
    workspace: ~/src/app
    shares:
      - {source: /home/alice/other/.claude, mountPoint: /opt/deep/er}
      - {source: /home/alice/src/, mountPoint: /opt, user: bob}
      - {source: "~/a b,c", readOnly: true, user: 7777}
      - {source: /nix/store}
      - {source: /srv/data, user: bob, tag: data}
      - {source: ~/src/app/inner}
`)
	type row struct {
		tag, source, mount string
		ro                 bool
		user               spec.ID
		owner              uint32
	}
	alice, bob := spec.ID{UID: 1000, GID: 1000}, spec.ID{UID: 1001, GID: 100}
	want := []row{
		{"workspace", "/home/alice/src/app", "/workspace", false, alice, 1000},
		{"src", "/home/alice/src", "/opt", false, bob, 1000},
		{"store", "/nix/store", "/nix/store", true, alice, 0},
		{"data", "/srv/data", "/srv/data", false, bob, 0},
		{"claude-", "/home/alice/.claude", "/home/alice/.claude", false, alice, 1000},
		{"claude-", "/home/alice/other/.claude", "/opt/deep/er", false, alice, 1000},
		{"a-b-c", "/home/alice/a b,c", "/home/alice/a b,c", true, spec.ID{UID: 7777, GID: 7777}, 1000},
		{"inner", "/home/alice/src/app/data", "/home/alice/src/app/inner", false, alice, 1000}, // a link
	}
	got := h.VMs[0].Shares
	if len(got) != len(want) {
		t.Fatalf("%d shares, want %d: %+v", len(got), len(want), got)
	}
	for i, w := range want {
		g := got[i]
		served := g.User != nil && *g.User == w.user && g.Owner != nil && *g.Owner == w.owner
		if !strings.HasPrefix(g.Tag, w.tag) || g.Source != w.source || g.MountPoint != w.mount || g.ReadOnly != w.ro || !served {
			t.Errorf("share %d: %+v, want %+v", i, g, w)
		}
	}
	if got[4].Tag == got[5].Tag {
		t.Errorf("two shares have the tag %s", got[4].Tag)
	}
}

// TestRootOwnedShares: only a user that the share names may serve them for
// writing; for the workspace, one that the file names for the VM.
func TestRootOwnedShares(t *testing.T) {
	h := mustParse(t, "user: {name: bob}\nvms: {a: {ip: 192.168.83.2, workspace: /srv/rootowned, shares: [{source: /srv/data, user: bob}, {source: ~/.claude}]}}")
	bob := spec.ID{UID: 1001, GID: 100}
	for _, s := range h.VMs[0].Shares[:2] {
		if s.User == nil || *s.User != bob {
			t.Errorf("%s is served as %v, want bob", s.Source, s.User)
		}
	}
	if s := h.VMs[0].Shares[2]; s.User == nil || *s.User != bob {
		t.Errorf("%s is bob's, but is served as %v", s.Source, s.User)
	}
	for _, yaml := range []string{
		"vms: {a: {ip: 192.168.83.2, workspace: /srv/rootowned}}",
		"user: {shell: /bin/bash}\nvms: {a: {ip: 192.168.83.2, workspace: ~/src/app, shares: [{source: /srv/data}]}}",
	} {
		if got := errorOf(t, yaml); !strings.Contains(got, "belongs to root") {
			t.Errorf("%s: %s", yaml, got)
		}
	}
}

// TestSharesOfRootsFile: bieldd is told as whom to open each folder, and whose
// it was.
func TestSharesOfRootsFile(t *testing.T) {
	h := newFakeHost()
	h.dirs(spec.ID{UID: 4242, GID: 50}, "/srv/group")
	h.dirs(spec.ID{UID: 4242}, "/srv/rootsgroup")
	h.dirs(spec.ID{UID: 1001, GID: 0}, "/srv/bobs")
	h.dirs(spec.ID{UID: spec.ImageUIDBase, GID: 100}, "/srv/image")
	file := func(source string) []byte {
		return []byte("vms: {a: {ip: 192.168.83.2, workspace: ~/src/app, shares: [{source: " + source + "}]}}")
	}
	for source, want := range map[string]spec.ID{
		"/home/bob/src": {UID: 1001, GID: 100}, // the group of bob's account
		"/srv/bobs":     {UID: 1001, GID: 100},
		"/srv/group":    {UID: 4242, GID: 50}, // no account: the folder's
	} {
		host, err := Parse("f", file(source), h.env())
		if err != nil {
			t.Fatalf("%s: %v", source, err)
		}
		s := host.VMs[0].Shares[1]
		if s.User == nil || *s.User != want || s.Owner == nil || *s.Owner != want.UID {
			t.Errorf("%s: %+v", source, s)
		}
	}
	for source, want := range map[string]string{
		"/srv/rootsgroup": "shares[0].source: its owner, uid 4242, would serve it in root's group",
		"/srv/image":      "shares[0].source: uid 1879048192 is in the range that bield keeps",
	} {
		if _, err := Parse("f", file(source), h.env()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", source, err)
		}
	}
	env := h.env()
	env.ByUID = func(uint32) (Account, error) { return Account{}, errPermission }
	if _, err := Parse("f", []byte("user: {name: bob}\n"+string(file("/home/bob/src"))), env); err == nil || !strings.Contains(err.Error(), "look up its owner, uid 1001") {
		t.Errorf("no accounts: %v", err)
	}
}

// TestSharesOfOthers: who is not root is served as themselves, and bieldd is
// told nothing of owners.
func TestSharesOfOthers(t *testing.T) {
	env := newFakeHost().env()
	env.Caller, env.Sudo = *env.Sudo, nil
	host, err := Parse("f", []byte("vms: {a: {ip: 192.168.83.2, workspace: ~/src/app, shares: [{source: /home/bob/.claude}, {source: ~/secret, user: alice}]}}"), env)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range host.VMs[0].Shares {
		if named := s.Source == "/home/alice/secret"; s.Owner != nil || (s.User != nil) != named {
			t.Errorf("%+v", s)
		}
	}
}

func TestSharesThatAGuestCouldTurn(t *testing.T) {
	vm := func(shares string) string {
		return "vms: {a: {ip: 192.168.83.2, workspace: ~/src/app, shares: [" + shares + "]}}"
	}
	for share, want := range map[string]string{
		"{source: ~/state, mountPoint: /s, readOnly: true}":        "lie in each other",
		"{source: /home/alice, mountPoint: /s}":                    "write bield's configuration",
		"{source: ~/bobs, mountPoint: /s}":                         "which belongs to bob and not to the guest's user alice",
		"{source: /home, mountPoint: /s, user: bob}":               "write bield's configuration",
		"{source: /home/alice/.config/bield}":                      "write bield's configuration",
		"{source: /home/bob, mountPoint: /s, user: bob}":           "write bield's configuration in /home/bob/.config/bield",
		"{source: ~/src/app/link, mountPoint: /s}":                 "which a guest can change — write /home/alice/secret",
		"{source: ~/way/link, mountPoint: /s}":                     "which a guest can change",
		"{source: ~/src/app/link, mountPoint: /s, readOnly: true}": "which a guest can change",
	} {
		if got := errorOf(t, vm(share)); !strings.Contains(got, want) {
			t.Errorf("%s: %s", share, got)
		}
	}
	mustParse(t, vm("{source: ~/.config, mountPoint: /s, readOnly: true}, {source: ~/way/data, mountPoint: /t}"))
	if got := errorOf(t, "stateDir: ~/src/app/link/x\n"+oneVM); !strings.Contains(got, "a guest can change") {
		t.Errorf("state folder behind a guest's link: %s", got)
	}
}

func TestImages(t *testing.T) {
	h := mustParse(t, `
image: {suite: bookworm, mirror: https://mirror.example/debian, keyring: /usr/share/keyrings/debian.gpg}
vms:
  a: {ip: 192.168.83.2, workspace: ~/src/app, extraPackages: [nodejs, git, nodejs], image: {suite: trixie}}
`)
	got := h.VMs[0].Image
	want := spec.Image{Suite: "trixie", Mirror: "https://mirror.example/debian", Keyring: "/usr/share/keyrings/debian.gpg", Packages: []string{"git", "nodejs"}}
	if got.Suite != want.Suite || got.Mirror != want.Mirror || got.Keyring != want.Keyring || !slices.Equal(got.Packages, want.Packages) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestAnchorsAndMerges(t *testing.T) {
	h := mustParse(t, `
vms:
  a: &base
    ip: 192.168.83.2
    workspace: ~/src/app
    mem: 1G
    extraPackages: &tools [git, nodejs]
  b:
    <<: *base
    ip: 192.168.83.3
  c:
    <<: [{vcpu: 2}, *base]
    ip: 192.168.83.4
    extraPackages: *tools
`)
	if len(h.VMs) != 3 || h.VMs[1].MemoryMiB != 1024 || h.VMs[1].IP.String() != "192.168.83.3" || h.VMs[2].VCPU != 2 || len(h.VMs[2].Image.Packages) != 2 {
		t.Errorf("got %+v", h.VMs)
	}
}

func TestVMOptionsOverHostOptions(t *testing.T) {
	h := mustParse(t, `
hypervisor: qemu
init: systemd
stopTimeout: 20
vms:
  a: {ip: 192.168.83.2, workspace: ~/src/app}
  b: {ip: 192.168.83.3, workspace: ~/src/app, hypervisor: cloud-hypervisor, init: bield, stopTimeout: 1m, mac: "02-00-00-00-00-AA", autostart: true, storeOnDisk: true, vcpu: 3}
`)
	a, b := h.VMs[0], h.VMs[1]
	if a.Hypervisor != "qemu" || a.Init != "systemd" || a.StopTimeout != 20*time.Second {
		t.Errorf("a: %+v", a)
	}
	if b.Hypervisor != "cloud-hypervisor" || b.Init != "bield" || b.StopTimeout != time.Minute || b.MAC != "02:00:00:00:00:aa" || !b.Autostart || !b.StoreOnDisk || b.VCPU != 3 {
		t.Errorf("b: %+v", b)
	}
}
