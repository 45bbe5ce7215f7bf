package verify

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"bield/internal/probe"
)

var update = flag.Bool("update", false, "write the golden files anew")

func mac(last byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 1, 0, last} }

// facts are of a host with two VMs and all that can be tried.
func facts() Facts {
	addr := netip.MustParseAddr
	return Facts{
		Cookie: "c00c1e", Mark: func(id uint32) []byte { return binary.BigEndian.AppendUint32([]byte("cookie-of-16-by"), id) },
		IP: addr("192.168.83.2"), MAC: mac(2), Tap: "mvone", Bridge: "microbr", BridgeMAC: mac(1),
		Gateway: addr("192.168.83.1"), Subnet: netip.MustParsePrefix("192.168.83.0/24"), Mode: ModePublic,
		NonPublic:   []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		OwnPorts:    []Port{{"udp", 5300}, {"tcp", 5301}},
		Nameservers: []netip.Addr{addr("1.1.1.1")},
		Addresses:   []netip.Addr{addr("192.168.83.1"), addr("203.0.113.2")},
		Neighbours:  []netip.Addr{addr("10.1.2.3"), addr("203.0.113.1")},
		Listeners: []Listener{{Port{"tcp", 22}, addr("0.0.0.0")}, {Port{"udp", 123}, addr("::")}, {Port{"tcp", 631}, addr("127.0.0.1")},
			{Port{"tcp", 8080}, addr("203.0.113.2")}, {Port{"tcp", 5301}, addr("192.168.83.1")}},
		CanaryTCP: 40100, CanaryUDP: 40200, CanaryIP: []int{253},
		Siblings: []Sibling{{Name: "two", IP: addr("192.168.83.3"), MAC: mac(3), Tap: "mvtwo"}},
		Shares: []Share{{Tag: "workspace", MountPoint: "/workspace", UID: 4711}, {Tag: "docs", MountPoint: "/docs", ReadOnly: true, UID: 4711},
			{Tag: "root", ReadOnly: true}},
		RootOnDisk: true, SecretPath: "/run/bield/secret", Secret: "s3cr3t", BootID: "boot-of-host", PID: 77, CommandLine: []byte("bieldd\x00"),
		Disks:         []Disk{{Name: "sda", Major: 8, Start: []byte("partitions")}},
		VirtioDevices: map[int]int{1: 1}, VirtioPorts: []string{"bield.link"}, Boot: "2-2", Earlier: "1-1", Home: "/home/dev",
	}
}

// walled is the evidence of a guest that nothing succeeds for.
func walled(p Plan) Evidence {
	e := Evidence{Results: map[int]Result{}, Seen: map[uint32][]string{uint32(p.Control): {"microbr", "mvone"}}, Heard: map[uint32][]string{}, Files: map[File]FileInfo{}}
	for _, o := range p.Orders {
		r := Result{ID: o.ID, Outcome: "EPERM"}
		switch o.Verb {
		case probe.Frame, probe.RawIP, probe.Create, probe.Chmod, probe.Symlink, probe.Mkdir:
			r.Outcome = probe.OK
		case probe.TCP, probe.UDP:
			r.Outcome = "ECONNREFUSED"
		case probe.Glob:
			r.Outcome = probe.OK
			if strings.HasPrefix(o.Path, "/sys/bus") {
				r.Data = []byte("/sys/x\t0x0001\n")
			}
		case probe.Firmware:
			r.Outcome = "ENODEV"
		case probe.Filesystem:
			r.Outcome, r.Data = probe.OK, []byte(magicOverlay)
		}
		e.Results[o.ID] = r
	}
	for _, f := range p.Files {
		switch {
		case strings.HasSuffix(f.Name, "setuid"):
			e.Files[f] = FileInfo{UID: 4711, Mode: unix.S_IFREG | unix.S_ISUID | 0o755}
		case f.Tag == "docs" || f.Tag == "root":
			for _, o := range p.Orders {
				if o.Verb == probe.Create && strings.HasSuffix(o.Path, f.Name) {
					e.Results[o.ID] = Result{ID: o.ID, Outcome: "EROFS"}
				}
			}
		}
	}
	return e
}

// breached is the evidence of one for which all does.
func breached(f Facts, p Plan) Evidence {
	e := walled(p)
	for _, o := range p.Orders {
		r := Result{ID: o.ID, Outcome: probe.OK}
		mark := uint32(o.ID)
		switch o.Verb {
		case probe.TCP:
			r.Connected, r.LocalPort = true, 50000
			e.Heard[mark] = []string{"tcp"}
		case probe.UDP:
			r.Outcome, r.Data = probe.Answered, []byte("another's")
			e.Seen[mark], e.Heard[mark] = []string{"ext0", "mvtwo"}, []string{"udp"}
		case probe.Frame, probe.RawIP:
			e.Seen[mark], e.Heard[mark] = []string{"ext0", "microbr", "mvtwo"}, []string{"udp"}
		case probe.Read:
			r.Data = []byte(f.Secret)
			switch {
			case strings.Contains(o.Path, "boot_id"):
				r.Data = []byte(f.BootID + "\n")
			case strings.HasSuffix(o.Path, "cmdline"):
				r.Data = f.CommandLine
			case strings.HasPrefix(o.Path, "/dev/"):
				r.Data = f.Disks[0].Start
			}
		case probe.Glob:
			r.Data = []byte("/sys/a/b\t0x0009\n/sys/c/d\t0x0009\n")
		case probe.Firmware:
			r.Data = []byte("opt/host\tsecret\n")
		case probe.Handles:
			r.Data = []byte(f.Secret)
		case probe.Vsock:
			r.Data = []byte("22 ")
		case probe.Filesystem:
			r.Data = []byte("ef53")
		}
		e.Results[o.ID] = r
	}
	for _, file := range p.Files {
		mode := uint32(unix.S_IFREG | 0o4755)
		switch {
		case strings.HasSuffix(file.Name, "block"):
			mode = unix.S_IFBLK
		case strings.HasSuffix(file.Name, "char"):
			mode = unix.S_IFCHR
		}
		e.Files[file] = FileInfo{UID: 0, Mode: mode}
	}
	return e
}

func table(rows []Row) string {
	var b strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&b, "%-5v %-5v %-9s | %s | %s | %s\n", r.Hole, r.Unchecked, r.Category, r.Attempt, r.Expected, r.Got)
	}
	return b.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || got != string(want) {
		t.Errorf("%s differs (%v); got:\n%s", path, err, got)
	}
}

func TestWalled(t *testing.T) {
	p := New(facts())
	rows := p.Judge(walled(p))
	if n := Holes(rows); n != 0 {
		t.Errorf("%d holes", n)
	}
	golden(t, "walled.golden", table(rows))
}

// TestEveryAttemptCanFail: one that can't proves nothing.
func TestEveryAttemptCanFail(t *testing.T) {
	f := facts()
	p := New(f)
	rows := p.Judge(breached(f, p))
	for _, r := range rows {
		// These are open, or no attempt.
		if r.Category == catControl || r.Expected == open {
			continue
		}
		if !r.Hole {
			t.Errorf("%s: %s: no hole: %s", r.Category, r.Attempt, r.Got)
		}
	}
	golden(t, "breached.golden", table(rows))
}

// TestOpened: what the spec opens is no hole.
func TestOpened(t *testing.T) {
	f := facts()
	f.Mode, f.TrustBridge, f.GuestToGuest = ModeOpen, true, true
	p := New(f)
	for _, r := range p.Judge(breached(f, p)) {
		switch r.Category {
		case catHost, catSiblings, catNetwork, catDNS:
			if r.Hole {
				t.Errorf("%s: %s: %s", r.Category, r.Attempt, r.Got)
			}
		}
	}
	f = facts()
	f.HostPorts, f.Allow = []Port{{"tcp", 22}}, []Allowed{{netip.MustParsePrefix("10.0.0.0/8"), 0}, {netip.MustParsePrefix("172.16.0.0/12"), 8443}}
	p = New(f)
	holes := map[string]bool{}
	for _, r := range p.Judge(breached(f, p)) {
		holes[r.Attempt] = r.Hole
	}
	for attempt, want := range map[string]bool{
		"tcp/22, on which it listens": false, "udp/123, on which it listens": true, "private 10.0.0.0/8 (10.255.255.254)": false,
		"the host's neighbour (10.1.2.3)": false, "private 172.16.0.0/12 (172.31.255.254)": true, "the internet (1.1.1.1)": false,
	} {
		if got, there := holes[attempt]; got != want || !there {
			t.Errorf("%s: hole %v, there %v", attempt, got, there)
		}
	}
	for _, mode := range []string{ModeAllowlist, ModeNone} {
		f = facts()
		f.Mode = mode
		p = New(f)
		if got := table(p.Judge(breached(f, p))); !strings.Contains(got, "true  false network   | the internet") {
			t.Errorf("%s: the internet is open", mode)
		}
	}
}

// TestBlind: what the host can't see is not called closed.
func TestBlind(t *testing.T) {
	p := New(facts())
	e := walled(p)
	e.Seen = nil
	for _, r := range p.Judge(e) {
		if !r.Unchecked && (r.Category == catSpoof || r.Category == catNetwork || r.Category == catSiblings) {
			t.Errorf("%s: %s: %s", r.Category, r.Attempt, r.Got)
		}
	}
	for _, r := range p.Judge(Evidence{}) {
		if !r.Unchecked || r.Hole {
			t.Errorf("nothing was tried, and %s: %s: %s", r.Category, r.Attempt, r.Got)
		}
	}
	if p.Missing(nil) != len(p.Orders) || p.Missing(e.Results) != 0 {
		t.Error("missing results are not counted")
	}
}

// TestProxy: that bield's own proxy takes a connection is no way out; that
// another port of the host does is.
func TestProxy(t *testing.T) {
	f := facts()
	p := New(f)
	for port, want := range map[uint16]bool{5301: false, 6000: true} {
		e := walled(p)
		for _, o := range p.Orders {
			if o.Verb == probe.TCP {
				e.Results[o.ID] = Result{ID: o.ID, Connected: true, LocalPort: uint16(40000 + o.ID), Outcome: probe.Silent}
				e.Connections = append(e.Connections, Connection{Local: netip.AddrPortFrom(f.Gateway, port), GuestPort: uint16(40000 + o.ID)})
			}
		}
		for _, r := range p.Judge(e) {
			if r.Hole != want && strings.HasPrefix(r.Attempt, "private 10") {
				t.Errorf("port %d: %s: %s", port, r.Attempt, r.Got)
			}
		}
	}
}

// TestAnswers knows bield's answer from others'.
func TestAnswers(t *testing.T) {
	gateway := netip.MustParseAddr("192.168.83.1")
	answer := func(ip [4]byte, n int) []byte {
		name := dnsmessage.MustNewName(OwnName + ".")
		m := dnsmessage.Message{Header: dnsmessage.Header{ID: 4711, Response: true}}
		for range n {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET}, Body: &dnsmessage.AResource{A: ip}})
		}
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for want, messages := range map[bool][][]byte{
		true:  {answer([4]byte{192, 168, 83, 1}, 1)},
		false: {answer([4]byte{192, 168, 83, 2}, 1), answer([4]byte{192, 168, 83, 1}, 2), answer([4]byte{}, 0), nil, []byte("x")},
	} {
		for _, m := range messages {
			if answers(m, gateway) != want {
				t.Errorf("%q: want %v", m, want)
			}
		}
	}
}

// TestMarks: each packet ends with the mark of its own order, is long enough not
// to be padded, and has checksums that a host takes.
func TestMarks(t *testing.T) {
	f := facts()
	p := New(f)
	n := 0
	for _, o := range p.Orders {
		if o.Verb == probe.Frame || o.Verb == probe.RawIP {
			n++
			if !bytes.HasSuffix(o.Data, f.Mark(uint32(o.ID))) || len(o.Data) < 60 {
				t.Errorf("order %d: %x", o.ID, o.Data)
			}
		}
		if o.Verb == probe.Frame && binary.BigEndian.Uint16(o.Data[12:]) == etherIPv4 {
			if packet := o.Data[14:]; checksum(packet[:20]) != 0 || int(binary.BigEndian.Uint16(packet[2:])) != len(packet) {
				t.Errorf("order %d: IPv4 header %x", o.ID, packet[:20])
			}
		}
	}
	if n < 40 || p.Orders[len(p.Orders)-1].ID != p.Control {
		t.Errorf("%d packets, the last order is %+v", n, p.Orders[len(p.Orders)-1])
	}
	seen := map[int]bool{}
	for _, o := range p.Orders {
		if seen[o.ID] {
			t.Errorf("order %d stands twice", o.ID)
		}
		seen[o.ID] = true
	}
}

// FuzzJudge holds whatever a guest may say against a plan.
func FuzzJudge(f *testing.F) {
	f.Add("ok", []byte("/sys\t0x1\n"), true, uint16(1))
	f.Add("", []byte("\xff\t\n\t"), false, uint16(0))
	p := New(facts())
	f.Fuzz(func(t *testing.T, outcome string, data []byte, connected bool, port uint16) {
		e := Evidence{Results: map[int]Result{}}
		for _, o := range p.Orders {
			e.Results[o.ID] = Result{ID: o.ID, Outcome: outcome, Data: data, Connected: connected, LocalPort: port}
		}
		if rows := p.Judge(e); len(rows) != len(p.attempts) {
			t.Fatalf("%d rows", len(rows))
		}
	})
}
