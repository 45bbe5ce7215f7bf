package preflight

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"bield/internal/spec"
)

const (
	toOutside  = "what guests send to the outside"
	fromGuests = "the answers of guests to the host"
)

// TestOtherFirewalls is the whole check, before and after its own advice.
func TestOtherFirewalls(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		skip(t, "there is no nft")
	}
	if !inChild(t, syscall.CLONE_NEWNET) {
		return
	}
	sh(t, "ip link set lo up; ip link add eth0 type veth peer name eth0p; ip addr add 198.51.100.2/24 dev eth0; ip link set eth0 up; ip route add default via 198.51.100.1")
	h := Host{Config: Config{Host: spec.DefaultHost()}}
	expect(t, h.otherFirewalls(t.Context()), OK, "none")
	sh(t, `nft 'add table inet theirs
add chain inet theirs fw { type filter hook forward priority 0; policy drop; }
add chain inet theirs inp { type filter hook input priority 0; policy drop; }'`)
	before := h.otherFirewalls(t.Context())
	expect(t, before, Fail, "nftables table inet theirs, chain fw: its policy drops "+toOutside, "chain inp: its policy drops "+fromGuests)
	for _, line := range before.Do {
		if command, is := strings.CutPrefix(line, "sudo "); is {
			sh(t, command)
		}
	}
	expect(t, h.otherFirewalls(t.Context()), OK, "1 table of others")
	// Guests may not use it to come to the host.
	if out, err := exec.Command("nft", "list", "chain", "inet", "theirs", "inp").CombinedOutput(); err != nil || !strings.Contains(string(out), "ct state established,related accept") {
		t.Errorf("%v: %s", err, out)
	}
	h.UID = 1000
	expect(t, h.otherFirewalls(t.Context()), Skipped, "needs root")
}
