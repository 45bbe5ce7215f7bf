package spec

import (
	"encoding/json"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"
)

const testKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILVSSM2XYbJUxJwmJ+4qcQGmxnLIAfk5HNZYkOVp8jF8 alice"

func goodVM(name, ip string) VM {
	return VM{
		Name: name, IP: netip.MustParseAddr(ip), MAC: DerivedMAC(name), VCPU: 4, MemoryMiB: 1024,
		Shares: []Share{
			{Tag: WorkspaceTag, Source: "/home/alice/src", MountPoint: WorkspaceMount},
			{Tag: "claude", Source: "/home/alice/.claude", MountPoint: "/home/alice/.claude", User: &ID{1000, 1000}},
			{Tag: "sub", Source: "/srv/sub", MountPoint: "/workspace/sub", ReadOnly: true},
		},
		User: User{Name: "alice", ID: ID{1000, 1000}, Home: "/home/alice", Shell: "/bin/zsh", AuthorizedKeys: []string{
			testKey, `from="10.0.0.0/8",command="/bin/x y" ` + testKey}},
		Image: Image{Suite: "bookworm", Mirror: "https://mirror.example/debian", Keyring: "/usr/share/k.gpg",
			Packages: []string{"g++", "libstdc++6", "nodejs", "python3.11"}},
		Hypervisor: HypervisorAuto, Init: InitBield, Restart: RestartNever, StopTimeout: DefaultStopTimeout,
	}
}

func goodHost() Host {
	return Host{
		Bridge: DefaultBridge, Subnet: netip.MustParsePrefix("192.168.83.0/24"), StateDir: DefaultStateDir,
		ExternalInterface: "eth0.100", Nameservers: DefaultNameservers(),
		VMs: []VM{goodVM("a", "192.168.83.2"), goodVM("claude-home", "192.168.83.254")},
	}
}

func TestCheckAcceptsGoodHosts(t *testing.T) {
	vms := func(h *Host) *VM { return &h.VMs[0] }
	good := map[string]func(*Host){
		"as it is":          func(*Host) {},
		"no VMs":            func(h *Host) { h.VMs = nil },
		"unset vcpu":        func(h *Host) { vms(h).VCPU = 0 },
		"most vcpus":        func(h *Host) { vms(h).VCPU = 255 },
		"least memory":      func(h *Host) { vms(h).MemoryMiB = 128 },
		"no name servers":   func(h *Host) { h.Nameservers = nil },
		"own MAC":           func(h *Host) { vms(h).MAC = "52:54:00:12:34:56" },
		"longest name":      func(h *Host) { vms(h).Name = strings.Repeat("a", 63) },
		"digit in front":    func(h *Host) { vms(h).Name = "3com" },
		"tag of 36 bytes":   func(h *Host) { vms(h).Shares[1].Tag = strings.Repeat("t", 36) },
		"no image options":  func(h *Host) { vms(h).Image = Image{} },
		"mirror in a file":  func(h *Host) { vms(h).Image.Mirror = "file:///srv/debian" },
		"share below /usr":  func(h *Host) { vms(h).Shares[1].MountPoint = "/usr/local/src" },
		"nix store":         func(h *Host) { vms(h).Shares[1].MountPoint = "/nix/store" },
		"state beside":      func(h *Host) { h.StateDir = "/home/alice/srcs" },
		"bridge of 15":      func(h *Host) { h.Bridge = strings.Repeat("b", 15) },
		"smallest network":  func(h *Host) { h.Subnet = netip.MustParsePrefix("192.168.83.0/30"); h.VMs = h.VMs[:1] },
		"widest network":    func(h *Host) { h.Subnet = netip.MustParsePrefix("192.0.0.0/8") },
		"longest stop time": func(h *Host) { vms(h).StopTimeout = time.Hour },
	}
	for name, change := range good {
		h := goodHost()
		change(&h)
		for _, p := range Check(h) {
			t.Errorf("%s: %s", name, p)
		}
	}
}

// TestCheckFinds makes one change to a good host, and wants one problem at
// one place, with a hint of what to write instead.
func TestCheckFinds(t *testing.T) {
	vm := func(change func(*VM)) func(*Host) { return func(h *Host) { change(&h.VMs[1]) } }
	share := func(change func(*Share)) func(*Host) { return vm(func(v *VM) { change(&v.Shares[1]) }) }
	user := func(change func(*User)) func(*Host) { return vm(func(v *VM) { change(&v.User) }) }
	const c = "vms.claude-home."
	tests := []struct {
		name, at, message string
		change            func(*Host)
	}{
		{"empty bridge", "bridge", "is empty", func(h *Host) { h.Bridge = "" }},
		{"long bridge", "bridge", "Linux allows 15", func(h *Host) { h.Bridge = strings.Repeat("b", 16) }},
		{"odd bridge", "bridge", "no interface name", func(h *Host) { h.Bridge = "a/b" }},
		{"option as bridge", "bridge", "no interface name", func(h *Host) { h.Bridge = "-x" }},
		{"dots as bridge", "bridge", "no interface name", func(h *Host) { h.Bridge = ".." }},
		{"loopback as bridge", "bridge", "meaning of its own", func(h *Host) { h.Bridge = "lo" }},
		{"tap as bridge", "bridge", `tap of the VM "claude-home"`, func(h *Host) { h.Bridge = "mvb84b5ea1db5" }},
		{"tap as way out", "externalInterface", "tap of the VM", func(h *Host) { h.ExternalInterface = "mvb84b5ea1db5" }},
		{"bridge as way out", "externalInterface", "bridge itself", func(h *Host) { h.ExternalInterface = h.Bridge }},
		{"odd way out", "externalInterface", "no interface name", func(h *Host) { h.ExternalInterface = "eth0:1" }},
		{"no subnet", "subnet", "is missing", func(h *Host) { h.Subnet = netip.Prefix{} }},
		{"unmasked subnet", "subnet", "write 192.168.83.0/24", func(h *Host) { h.Subnet = netip.MustParsePrefix("192.168.83.1/24") }},
		{"IPv6 subnet", "subnet", "not IPv4", func(h *Host) { h.Subnet = netip.MustParsePrefix("fd00::/64") }},
		{"tiny subnet", "subnet", "/31 is no size", func(h *Host) { h.Subnet = netip.MustParsePrefix("192.168.83.2/31") }},
		{"huge subnet", "subnet", "/0 is no size", func(h *Host) { h.Subnet = netip.MustParsePrefix("0.0.0.0/0") }},
		{"loopback subnet", "subnet", "cannot be used", func(h *Host) { h.Subnet = netip.MustParsePrefix("127.0.0.0/24") }},
		{"multicast subnet", "subnet", "cannot be used", func(h *Host) { h.Subnet = netip.MustParsePrefix("224.0.0.0/24") }},
		{"link-local subnet", "subnet", "cannot be used", func(h *Host) { h.Subnet = netip.MustParsePrefix("169.254.0.0/16") }},
		{"root as state", "stateDir", "cannot hold state", func(h *Host) { h.StateDir = "/"; h.VMs = nil }},
		{"proc as state", "stateDir", "cannot hold state", func(h *Host) { h.StateDir = "/proc/x" }},
		{"relative state", "stateDir", "not absolute", func(h *Host) { h.StateDir = "var" }},
		{"four name servers", "nameservers", "reads only 3", func(h *Host) {
			for _, s := range []string{"9.9.9.9", "9.9.9.10"} {
				h.Nameservers = append(h.Nameservers, netip.MustParseAddr(s))
			}
		}},
		{"zero name server", "nameservers.0", "not an IPv4", func(h *Host) { h.Nameservers[0] = netip.Addr{} }},
		{"unspecified name server", "nameservers.0", "no server's", func(h *Host) { h.Nameservers[0] = netip.IPv4Unspecified() }},
		{"loopback name server", "nameservers.1", "guest itself", func(h *Host) { h.Nameservers[1] = netip.MustParseAddr("127.0.0.53") }},
		{"same name servers", "nameservers.1", "twice", func(h *Host) { h.Nameservers[1] = h.Nameservers[0] }},

		{"no address", c + "ip", "is missing", vm(func(v *VM) { v.IP = netip.Addr{} })},
		{"IPv6 address", c + "ip", "not IPv4", vm(func(v *VM) { v.IP = netip.MustParseAddr("::1") })},
		{"mapped address", c + "ip", "not IPv4", vm(func(v *VM) { v.IP = netip.MustParseAddr("::ffff:192.168.83.9") })},
		{"outside", c + "ip", "outside the subnet 192.168.83.0/24 — 192.168.83.3 is free", vm(func(v *VM) { v.IP = netip.MustParseAddr("192.168.84.2") })},
		{"network", c + "ip", "network itself", vm(func(v *VM) { v.IP = netip.MustParseAddr("192.168.83.0") })},
		{"gateway", c + "ip", "gateway", vm(func(v *VM) { v.IP = netip.MustParseAddr("192.168.83.1") })},
		{"broadcast", c + "ip", "broadcast", vm(func(v *VM) { v.IP = netip.MustParseAddr("192.168.83.255") })},
		{"same IP", c + "ip", `also the IP of the VM "a"`, vm(func(v *VM) { v.IP = netip.MustParseAddr("192.168.83.2") })},
		{"no MAC", c + "mac", "no MAC", vm(func(v *VM) { v.MAC = "" })},
		{"long MAC", c + "mac", "no MAC", vm(func(v *VM) { v.MAC = "02:00:00:00:00:00:00:01" })},
		{"upper-case MAC", c + "mac", "write 02:00:00:00:00:aa", vm(func(v *VM) { v.MAC = "02:00:00:00:00:AA" })},
		{"multicast MAC", c + "mac", "multicast", vm(func(v *VM) { v.MAC = "01:00:5e:00:00:01" })},
		{"broadcast MAC", c + "mac", "multicast", vm(func(v *VM) { v.MAC = "ff:ff:ff:ff:ff:ff" })},
		{"zero MAC", c + "mac", "nobody", vm(func(v *VM) { v.MAC = "00:00:00:00:00:00" })},
		{"same MAC", c + "mac", `also the MAC of the VM "a"`, vm(func(v *VM) { v.MAC = DerivedMAC("a") })},
		{"negative vcpu", c + "vcpu", "1 to 255", vm(func(v *VM) { v.VCPU = -1 })},
		{"many vcpus", c + "vcpu", "1 to 255", vm(func(v *VM) { v.VCPU = 256 })},
		{"little memory", c + "mem", "at least 128", vm(func(v *VM) { v.MemoryMiB = 127 })},
		{"absurd memory", c + "mem", "out of range", vm(func(v *VM) { v.MemoryMiB = math.MaxInt32 })},
		{"no stop time", c + "stopTimeout", "1s to 1h", vm(func(v *VM) { v.StopTimeout = 0 })},
		{"negative stop time", c + "stopTimeout", "1s to 1h", vm(func(v *VM) { v.StopTimeout = -time.Second })},
		{"endless stop time", c + "stopTimeout", "1s to 1h", vm(func(v *VM) { v.StopTimeout = math.MaxInt64 })},
		{"hypervisor", c + "hypervisor", "auto, qemu or cloud-hypervisor", vm(func(v *VM) { v.Hypervisor = "xen" })},
		{"init", c + "init", "bield or systemd", vm(func(v *VM) { v.Init = "" })},

		{"no user", c + "user.name", "no user name", user(func(u *User) { u.Name = "" })},
		{"user of two lines", c + "user.name", "no user name", user(func(u *User) { u.Name = "a\nb" })},
		{"user root", c + "user.name", "own system", user(func(u *User) { u.Name = "root" })},
		{"uid 0", c + "user.uid", "root", user(func(u *User) { u.UID = 0 })},
		{"gid 0", c + "user.gid", "root", user(func(u *User) { u.GID = 0 })},
		{"system uid", c + "user.uid", "100 or more", user(func(u *User) { u.UID = 99 })},
		{"uid of none", c + "user.uid", "none", user(func(u *User) { u.UID = math.MaxUint32 })},
		{"uid of an image", c + "user.uid", "bield keeps", user(func(u *User) { u.UID = ImageUIDBase })},
		{"uid of a VMM", c + "user.uid", "bield keeps", user(func(u *User) { u.UID = VMMUIDBase + VMMUIDCount - 1 })},
		{"relative home", c + "user.home", "not absolute", user(func(u *User) { u.Home = "home" })},
		{"root as home", c + "user.home", "cannot be a home", user(func(u *User) { u.Home = "/" })},
		{"proc as home", c + "user.home", "cannot be a home", user(func(u *User) { u.Home = "/proc/1" })},
		{"home with colon", c + "user.home", "cannot be a home", user(func(u *User) { u.Home = "/home/a:b" })},
		{"relative shell", c + "user.shell", "not absolute", user(func(u *User) { u.Shell = "zsh" })},
		{"shell with colon", c + "user.shell", "/etc/passwd", user(func(u *User) { u.Shell = "/bin/a:b" })},
		{"private key", c + "user.authorizedKeys.0", "private", user(func(u *User) { u.AuthorizedKeys[0] = "-----BEGIN OPENSSH PRIVATE KEY-----" })},
		{"key of two lines", c + "user.authorizedKeys.0", "one line", user(func(u *User) { u.AuthorizedKeys[0] = testKey + "\n" + testKey })},
		{"type without key", c + "user.authorizedKeys.1", "no public key", user(func(u *User) { u.AuthorizedKeys[1] = "ssh-ed25519 AAAA" })},
		{"key of another type", c + "user.authorizedKeys.1", "no public key", user(func(u *User) { u.AuthorizedKeys[1] = "ssh-rsa" + testKey[11:] })},

		{"suite", c + "image.suite", "no suite", vm(func(v *VM) { v.Image.Suite = "book worm" })},
		{"option as suite", c + "image.suite", "no suite", vm(func(v *VM) { v.Image.Suite = "--x" })},
		{"mirror with password", c + "image.mirror", "password", vm(func(v *VM) { v.Image.Mirror = "https://u:p@mirror.example/debian" })},
		{"mirror line", c + "image.mirror", "no URL", vm(func(v *VM) { v.Image.Mirror = "http://mirror.example/debian stable" })},
		{"mirror scheme", c + "image.mirror", "http, https or file", vm(func(v *VM) { v.Image.Mirror = "ftp://mirror.example" })},
		{"relative keyring", c + "image.keyring", "not absolute", vm(func(v *VM) { v.Image.Keyring = "k.gpg" })},
		{"package", c + "image.packages.0", "no Debian package", vm(func(v *VM) { v.Image.Packages[0] = "a,b" })},
		{"package to remove", c + "image.packages.1", "no Debian package", vm(func(v *VM) { v.Image.Packages[1] = "sudo-" })},
		{"option as package", c + "image.packages.2", "no Debian package", vm(func(v *VM) { v.Image.Packages[2] = "-x" })},

		{"relative source", c + "shares.1.source", "not absolute", share(func(s *Share) { s.Source = "x" })},
		{"roundabout source", c + "shares.1.source", `write "/etc"`, share(func(s *Share) { s.Source = "/srv/../etc" })},
		{"source with NUL", c + "shares.1.source", "control characters", share(func(s *Share) { s.Source = "/srv/\x00" })},
		{"everything", c + "shares.1.source", "keys", share(func(s *Share) { s.Source = "/" })},
		{"above the state", c + "shares.1.source", "keys", share(func(s *Share) { s.Source = "/var/lib" })},
		{"in the state", c + "shares.1.source", "keys", share(func(s *Share) { s.Source = "/var/lib/bield/x" })},
		{"kernel's source", c + "shares.1.source", "kernel's", share(func(s *Share) { s.Source = "/dev/shm" })},
		{"no tag", c + "shares.1.tag", "is empty", share(func(s *Share) { s.Tag = "" })},
		{"long tag", c + "shares.1.tag", "virtio-fs allows 36", share(func(s *Share) { s.Tag = strings.Repeat("t", 37) })},
		{"tag with options", c + "shares.1.tag", "no tag", share(func(s *Share) { s.Tag = "x,socket=/y" })},
		{"reserved tag root", c + "shares.1.tag", "bield's own", share(func(s *Share) { s.Tag = RootTag })},
		{"reserved tag keys", c + "shares.1.tag", "bield's own", share(func(s *Share) { s.Tag = HostKeysTag })},
		{"tag workspace", c + "shares.1.tag", "belong together", share(func(s *Share) { s.Tag = WorkspaceTag })},
		{"same tags", c + "shares.2.tag", "twice", share(func(s *Share) { s.Tag = "sub" })},
		{"relative mount", c + "shares.1.mountPoint", "not absolute", share(func(s *Share) { s.MountPoint = "x" })},
		{"roundabout mount", c + "shares.1.mountPoint", `write "/x"`, share(func(s *Share) { s.MountPoint = "/x/" })},
		{"mount over root", c + "shares.1.mountPoint", "would hide", share(func(s *Share) { s.MountPoint = "/" })},
		{"mount over etc", c + "shares.1.mountPoint", "would hide", share(func(s *Share) { s.MountPoint = "/etc" })},
		{"mount over home", c + "shares.1.mountPoint", "would hide", share(func(s *Share) { s.MountPoint = "/home/alice" })},
		{"mount in proc", c + "shares.1.mountPoint", "lies in /proc", share(func(s *Share) { s.MountPoint = "/proc/sys" })},
		{"mount over host keys", c + "shares.1.mountPoint", "lies in " + HostKeysMount, share(func(s *Share) { s.MountPoint = HostKeysMount })},
		{"child before parent", c + "shares.2.mountPoint", "put it first", vm(func(v *VM) {
			v.Shares[1].MountPoint, v.Shares[2].MountPoint = "/data/sub", "/data"
		})},
		{"same mounts", c + "shares.2.mountPoint", "mounted twice", vm(func(v *VM) { v.Shares[2].MountPoint = v.Shares[1].MountPoint })},
		{"share served as root", c + "shares.1.user", "root", share(func(s *Share) { s.User = &ID{0, 0} })},
		{"share served as group root", c + "shares.1.user", "gid 0", share(func(s *Share) { s.User = &ID{1000, 0} })},
		{"no workspace", c + "workspace", "is missing", vm(func(v *VM) { v.Shares = v.Shares[1:2] })},
		{"too many shares", c + "shares", "has room for 16", vm(func(v *VM) { v.Shares = append(v.Shares, make([]Share, 20)...) })},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := goodHost()
			tt.change(&h)
			problems := Check(h)
			if len(problems) != 1 {
				t.Fatalf("%d problems, want 1: %v", len(problems), problems)
			}
			p := problems[0]
			if at := strings.Join(p.Path, "."); at != tt.at || !strings.Contains(p.Message, tt.message) {
				t.Errorf("%s\nwant %s: …%s…", p, tt.at, tt.message)
			}
			if !strings.Contains(p.Message, " — ") {
				t.Errorf("%s: does not say what to write instead", p)
			}
		})
	}
}

func TestNameProblem(t *testing.T) {
	for _, name := range []string{"", "A", "a_b", "a.b", "-a", "a-", "ä", "a b", "a\x00", strings.Repeat("a", 64), "123", "1-2", "localhost", "../x"} {
		if NameProblem(name) == "" {
			t.Errorf("%q is accepted", name)
		}
	}
	for _, name := range []string{"a", "claude-home", "3com", "x--y", "1a"} {
		if m := NameProblem(name); m != "" {
			t.Errorf("%q: %s", name, m)
		}
	}
}

func TestCheckFindsCollisions(t *testing.T) {
	h := goodHost()
	// Found by search: these names share 44 bits of SHA-256.
	h.VMs = []VM{goodVM("vm4344694", "192.168.83.2"), goodVM("vm6431177", "192.168.83.3")}
	if !hasProblem(Check(h), "vms.vm6431177", "the tap mv") {
		t.Errorf("taps that collide are not found: %v", Check(h))
	}
	// And these 16 bits.
	h.VMs = []VM{goodVM("agent-214", "192.168.83.2"), goodVM("agent-266", "192.168.83.3")}
	if !hasProblem(Check(h), "vms.agent-266.mac", `also the MAC of the VM "agent-214"`) {
		t.Errorf("derived MACs that collide are not found: %v", Check(h))
	}
	h.VMs = []VM{goodVM("a", "192.168.83.2"), goodVM("a", "192.168.83.3")}
	if !hasProblem(Check(h), "vms.a", "two VMs are named") {
		t.Errorf("a name that is there twice is not found: %v", Check(h))
	}
}

// TestCheckTakesAnything: bieldd calls Check on what a client sends.
func TestCheckTakesAnything(t *testing.T) {
	for name, h := range map[string]Host{
		"zero":         {},
		"zero VM":      {VMs: []VM{{}}},
		"zero share":   {Subnet: netip.MustParsePrefix("10.0.0.0/30"), VMs: []VM{{Shares: []Share{{}}}, {Shares: []Share{{}}}}},
		"no addresses": {Subnet: netip.MustParsePrefix("255.255.255.252/30"), VMs: make([]VM, 10)},
		"IPv6":         {Subnet: netip.MustParsePrefix("::/0"), VMs: []VM{{IP: netip.IPv6Loopback()}}},
	} {
		if len(Check(h)) == 0 {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestSuggestedAddressRunsOut(t *testing.T) {
	h := goodHost()
	h.Subnet = netip.MustParsePrefix("192.168.83.0/30")
	if !hasProblem(Check(h), "vms.claude-home.ip", "no address is free") {
		t.Errorf("got %v", Check(h))
	}
}

func hasProblem(list []Problem, at, message string) bool {
	for _, p := range list {
		if strings.Join(p.Path, ".") == at && strings.Contains(p.Message, message) {
			return true
		}
	}
	return false
}

// FuzzCheck: a host comes to bieldd as JSON from anyone in the group.
func FuzzCheck(f *testing.F) {
	good, err := json.Marshal(goodHost())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"vms":[{"shares":[{"user":{}}]},{"name":"\u0000","ip":"::1","user":{"authorizedKeys":["a a"]}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var h Host
		if json.Unmarshal(data, &h) != nil {
			return
		}
		problems := Check(h)
		for _, p := range problems {
			if len(p.Path) == 0 || p.Message == "" {
				t.Errorf("empty: %+v", p)
			}
		}
		if len(problems) > 0 {
			return
		}
		for _, v := range h.VMs {
			if v.User.UID == 0 || v.Workspace() == "" || !h.Subnet.Contains(v.IP) {
				t.Errorf("accepted: %+v", v)
			}
		}
	})
}
