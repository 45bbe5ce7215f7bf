package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"bield/internal/api"
)

// TestVerify breaks out of a real VM: with all walls up nothing comes through,
// and each wall that is taken down is found.
func TestVerify(t *testing.T) {
	v := newVerified(t)
	t.Run("no hole with the defaults", v.defaults)
	for _, w := range walls() {
		t.Run("without: "+w.name, func(t *testing.T) { v.without(t, w) })
	}
	t.Run("no hole after all", v.defaults)
	t.Run("each attempt was a hole", v.covered)
	t.Run("nothing is left in shares", v.swept)
	t.Run("what the last run left is gone", v.leftovers)
}

// verified is a host with a VM to verify and its sibling.
type verified struct {
	h                    *host
	name                 string // of the VM
	workspace, reference string
	listener             net.Listener
	holes                map[string]bool // attempts that came through once
}

func newVerified(t *testing.T) *verified {
	h := newHost(t)
	v := &verified{h: h, name: "first", holes: map[string]bool{}, workspace: h.folder(t, "work/first", guestUID, guestGID), reference: h.folder(t, "work/reference", guestUID, guestGID)}
	second := h.folder(t, "second", guestUID, guestGID)
	h.configure(t, fmt.Sprintf(`  first:
    ip: 192.168.83.2
    mem: 512
    workspace: %s
    shares: [{source: %s, mountPoint: /mnt/reference, readOnly: true}]
  second: {ip: 192.168.83.3, mem: 512, workspace: %s}
`, v.workspace, v.reference, second))
	listener, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	v.listener = listener
	h.bield(t, "up")
	return v
}

// verify runs the verb and returns its table and exit code.
func (v *verified) verify(t *testing.T) ([]api.Attempt, int) {
	t.Helper()
	out, err := v.h.command("verify", v.name, "--json").Output()
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	}
	var reply api.VerifyReply
	if json.Unmarshal(out, &reply) != nil {
		t.Fatalf("bield verify: %v: %s %s", err, out, exitText(exit))
	}
	return reply.Attempts, code
}

func exitText(exit *exec.ExitError) string {
	if exit == nil {
		return ""
	}
	return string(exit.Stderr)
}

func table(rows []api.Attempt) string {
	var b strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&b, "hole=%-5v unchecked=%-5v %-10s %s | %s | %s\n", r.Hole, r.Unchecked, r.Category, r.Attempt, r.Expected, r.Got)
	}
	return b.String()
}

func (v *verified) defaults(t *testing.T) {
	rows, code := v.verify(t)
	t.Logf("\n%s", table(rows))
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	if len(rows) < 50 {
		t.Errorf("%d attempts only", len(rows))
	}
	for _, r := range rows {
		if r.Hole || r.Unchecked {
			t.Errorf("%s: %s: expected %s, got %s", r.Category, r.Attempt, r.Expected, r.Got)
		}
	}
}

// wall is one protection: how to take it down, and which attempts come through then.
type wall struct {
	name string
	down [][]string
	// holes are parts of the attempts' names, each of which must be found.
	holes []string
	// up puts back what is none of bield's own.
	up [][]string
}

func walls() []wall {
	nft := func(args ...string) []string { return append([]string{"nft"}, args...) }
	return []wall{
		{"the host's input", [][]string{nft("flush", "chain", "inet", "bield", "from_guests_to_host")},
			[]string{"a TCP port that was just opened", "a UDP port that was just opened", "a raw socket of IP protocol 253", "on which it listens"}, nil},
		{"egress", [][]string{nft("insert", "rule", "inet", "bield", "egress", "accept"), nft("flush", "chain", "inet", "bield", "steer")},
			[]string{"cloud metadata", "private 10.0.0.0/8", "private 172.16.0.0/12", "carrier-grade NAT", "the host's neighbour", "past bield's resolver"}, nil},
		{"the hairpin's rule", [][]string{nft("insert", "rule", "inet", "bield", "forward", "accept")},
			[]string{"by way of the host to second"}, nil},
		{"anti-spoofing", [][]string{nft("flush", "chain", "bridge", "bield", "prerouting")},
			[]string{"a frame with another MAC", "a frame with a sibling's MAC", "a packet with a sibling's address", "a packet with the gateway's address",
				"a packet with an address of the internet", "all of a sibling's", "ARP: the gateway is here", "ARP: a sibling is here", "ARP: this address has another MAC",
				"VLAN 1", "VLAN 0, a priority alone", "a VLAN in a VLAN", "a protocol of its own",
				"IPv6: a router is here", "IPv6: a neighbour is here", "IPv6: a datagram to all", "DHCPv6: an offer", "DHCP: an offer"}, nil},
		{"link-local frames", [][]string{nft("flush", "chain", "bridge", "bield", "input"), nft("flush", "chain", "inet", "bield", "prerouting")},
			[]string{"past the bridge"}, nil},
		{"anti-spoofing of link-local frames", [][]string{nft("flush", "chain", "bridge", "bield", "prerouting"), nft("flush", "chain", "bridge", "bield", "input")},
			[]string{"spanning tree"}, nil},
		{"isolated ports", [][]string{nft("flush", "chain", "bridge", "bield", "forward"),
			nft("insert", "rule", "inet", "bield", "forward", "accept"), {"isolate", "off"}},
			[]string{"by frames to second"}, nil},
		{"loopback's addresses", [][]string{nft("flush", "chain", "inet", "bield", "from_guests_to_host"), nft("flush", "chain", "inet", "bield", "prerouting"),
			{"sysctl", "-qw", "net.ipv4.conf.microbr.route_localnet=1"}},
			[]string{"what listens on 127.0.0.1"}, [][]string{{"sysctl", "-qw", "net.ipv4.conf.microbr.route_localnet=0"}}},
	}
}

func (v *verified) without(t *testing.T, w wall) {
	for _, command := range w.down {
		if command[0] == "isolate" {
			for _, name := range []string{"first", "second"} {
				run(t, "bridge", "link", "set", "dev", v.h.status(t, name).Tap, "isolated", command[1])
			}
			continue
		}
		run(t, command[0], command[1:]...)
	}
	defer func() {
		for _, command := range w.up {
			run(t, command[0], command[1:]...)
		}
	}()
	rows, code := v.verify(t)
	for _, r := range rows {
		if r.Expected == "open" || !slices.Contains([]string{"host", "siblings", "network", "dns", "spoofing"}, r.Category) {
			continue // the others are TestVerifyMachine's and TestVerifyShares'
		}
		v.holes[r.Attempt] = v.holes[r.Attempt] || r.Hole
	}
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	for _, part := range w.holes {
		if !holeIn(rows, part) {
			t.Errorf("no hole found in %q:\n%s", part, table(rows))
		}
	}
	v.h.bield(t, "up") // gives running VMs what they lost
}

// covered: each attempt at the network came through when its wall was down.
func (v *verified) covered(t *testing.T) {
	for attempt, hole := range v.holes {
		// Another's answer needs another resolver: that queries get past bield's is shown.
		if !hole && !strings.HasPrefix(attempt, "whose answer comes from") {
			t.Errorf("never a hole: %s", attempt)
		}
	}
}

func holeIn(rows []api.Attempt, part string) bool {
	for _, r := range rows {
		if r.Hole && strings.Contains(r.Attempt, part) {
			return true
		}
	}
	return false
}

func (v *verified) swept(t *testing.T) {
	for _, dir := range []string{v.workspace, v.reference, filepath.Dir(v.workspace)} {
		if left, _ := filepath.Glob(filepath.Join(dir, ".bield-verify*")); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
}

// leftovers compares two runs of a VM: a file that is brought over is found.
func (v *verified) leftovers(t *testing.T) {
	v.h.bield(t, "restart", "first")
	rows, _ := v.verify(t)
	found := false
	for _, r := range rows {
		if r.Category == "leftovers" {
			found = true
			if r.Got != "nothing" {
				t.Errorf("%s: %s", r.Attempt, r.Got)
			}
		}
	}
	if !found {
		t.Error("leftovers were not looked for")
	}
	v.h.in(t, "first", "echo another-run | sudo tee /var/.bield-verify-left-0123 > /dev/null")
	if rows, code := v.verify(t); code != 1 || !holeIn(rows, "left in /var") {
		t.Errorf("exit code %d:\n%s", code, table(rows))
	}
}

// TestVerifyModes verifies a VM under systemd in each mode of egress, which
// changes as it runs: what is open is told from a hole.
func TestVerifyModes(t *testing.T) {
	h := newHost(t)
	v := &verified{h: h, name: "one", workspace: h.folder(t, "work", guestUID, guestGID)}
	for _, c := range []struct{ mode, expected string }{
		{"public", "closed"}, {"open", "open"}, {"allowlist", "closed"}, {"none", "closed"},
	} {
		h.configure(t, minimal(v.workspace)+"    init: systemd\n    egress: "+c.mode+"\n")
		h.bield(t, "up")
		rows, code := v.verify(t)
		if code != 0 {
			t.Errorf("%s: exit code %d:\n%s", c.mode, code, table(rows))
		}
		for _, r := range rows {
			if !strings.HasPrefix(r.Attempt, "private 10.0.0.0/8") {
				continue
			}
			if r.Expected != c.expected || r.Unchecked || (c.mode == "open") != strings.Contains(r.Got, "it left by ext0") {
				t.Errorf("%s: %s: expected %s, got %s", c.mode, r.Attempt, r.Expected, r.Got)
			}
		}
	}
}
