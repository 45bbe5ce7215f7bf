package obstacles

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"bield/internal/spec"
)

// onThread runs f on a thread that ends with it. It is never the first one,
// whose network /proc/net shows.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if syscall.Gettid() == os.Getpid() {
			onThread(f)
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}

// inSpace runs f in another network namespace.
func inSpace(t *testing.T, at netns.NsHandle, f func()) {
	t.Helper()
	onThread(func() {
		if err := netns.Set(at); err != nil {
			t.Error(err)
			return
		}
		f()
	})
}

func newSpace(t *testing.T) netns.NsHandle {
	t.Helper()
	var ns netns.NsHandle
	onThread(func() {
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			t.Error(err)
		}
		var err error
		if ns, err = netns.Get(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { ns.Close() })
	return ns
}

// street is a host (the test's own namespace) between a guest and the internet,
// with bield's redirection of DNS and of connections to port 9.
type street struct {
	guest, outside netns.NsHandle
	guests         Guests
}

const (
	guestIP, hostIP, farIP = "192.168.83.2", "192.168.83.1", "198.51.100.9"
	echoPort, hostPort     = "7000", "8080"
	// patience is for packets that come, silence for those that don't.
	patience, silence = 5 * time.Second, 400 * time.Millisecond
)

func newStreet(t *testing.T) street {
	t.Helper()
	s := street{guest: newSpace(t), outside: newSpace(t)}
	sh(t, fmt.Sprintf(`
ip link set lo up
ip link add microbr type bridge; ip addr add %s/24 dev microbr; ip link set microbr up
ip link add tap0 type veth peer name guest0; ip link set tap0 master microbr; ip link set tap0 up
ip link add eth0 type veth peer name far0; ip addr add 198.51.100.2/24 dev eth0; ip link set eth0 up
ip route add default via %s
echo 1 > /proc/sys/net/ipv4/ip_forward`, hostIP, farIP))
	give := func(link, address, router string, ns netns.NsHandle) {
		sh(t, fmt.Sprintf("ip link set %s netns /proc/%d/fd/%d", link, os.Getpid(), int(ns)))
		inSpace(t, ns, func() {
			sh(t, fmt.Sprintf("ip link set lo up; ip addr add %s/24 dev %s; ip link set %s up; ip route add default via %s", address, link, link, router))
		})
	}
	give("guest0", guestIP, hostIP, s.guest)
	give("far0", farIP, "198.51.100.2", s.outside)
	inSpace(t, s.outside, func() { echo(t, "tcp4", ":"+echoPort) })
	inSpace(t, s.guest, func() { echo(t, "tcp4", ":"+echoPort) })
	echo(t, "tcp4", ":"+hostPort)
	dns, proxy := echo(t, "udp4", ":0"), echo(t, "tcp4", ":0")
	loadNFT(t, fmt.Sprintf("table ip bield { chain pre { type nat hook prerouting priority dstnat; iifname microbr udp dport 53 redirect to :%s; iifname microbr tcp dport 9 redirect to :%s } }", dns, proxy))
	s.guests = Guests{
		Bridge: "microbr", Subnet: netip.MustParsePrefix("192.168.83.0/24"), Gateway: netip.MustParseAddr(hostIP), External: "eth0",
		Far: netip.MustParseAddr(farIP), Redirected: true, HostPorts: []spec.HostPort{{Protocol: "tcp", Port: 8080}},
	}
	return s
}

// loadNFT loads rules beside those that are there. A "}" begins a line.
func loadNFT(t *testing.T, rules string) {
	t.Helper()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(strings.ReplaceAll(rules, "}", "\n}"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
}

// echo answers on an address of the namespace that it is called in, and returns
// the port.
func echo(t *testing.T, network, address string) string {
	t.Helper()
	if network == "udp4" {
		conn, err := net.ListenPacket(network, address)
		must(t, err)
		t.Cleanup(func() { conn.Close() })
		go func() {
			buf := make([]byte, 100)
			for {
				n, from, err := conn.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = conn.WriteTo(buf[:n], from)
			}
		}()
		_, port, _ := net.SplitHostPort(conn.LocalAddr().String())
		return port
	}
	listener, err := net.Listen(network, address)
	must(t, err)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, "hello")
			conn.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

// ask says whether an answer comes.
func ask(from *netns.NsHandle, t *testing.T, network, to string, wait time.Duration) bool {
	got := false
	try := func() {
		conn, err := net.DialTimeout(network, to, wait)
		if err != nil {
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(wait))
		if network == "udp4" {
			fmt.Fprint(conn, "?")
		}
		buf := make([]byte, 10)
		n, err := conn.Read(buf)
		got = n > 0 && (err == nil || errors.Is(err, io.EOF))
	}
	if from == nil {
		try()
	} else {
		inSpace(t, *from, try)
	}
	return got
}

// passing lists what passes, by a letter each: to the Outside, Dns, the Proxy,
// the Host's port, to the Guest. all of them may take their time where they are
// expected to pass.
func (s street) passing(t *testing.T, expected string) string {
	t.Helper()
	probes := []struct {
		letter, network, to string
		from                *netns.NsHandle
	}{
		{"O", "tcp4", farIP + ":" + echoPort, &s.guest}, {"D", "udp4", "203.0.113.1:53", &s.guest}, {"P", "tcp4", "203.0.113.1:9", &s.guest},
		{"H", "tcp4", hostIP + ":" + hostPort, &s.guest}, {"G", "tcp4", guestIP + ":" + echoPort, nil},
	}
	got := ""
	for _, p := range probes {
		wait := silence
		if strings.Contains(expected, p.letter) {
			wait = patience
		}
		if ask(p.from, t, p.network, p.to, wait) {
			got += p.letter
		}
	}
	return got
}

const everything = "ODPHG"

// iptables is the family of programs of a variant, first in PATH under the
// names that Docker and people use too.
func iptables(t *testing.T, variant string) {
	t.Helper()
	bin := t.TempDir()
	for _, program := range []string{"iptables", "iptables-save", "iptables-restore"} {
		full := strings.Replace(program, "iptables", "iptables-"+variant, 1)
		path, err := exec.LookPath(full)
		if err != nil {
			skip(t, "there is no "+full)
		}
		must(t, os.Symlink(path, filepath.Join(bin, program)))
	}
	if out, err := exec.Command("iptables-"+variant, "-t", "filter", "-S").CombinedOutput(); err != nil {
		t.Skipf("this kernel has no iptables-%s: %s", variant, out)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
}

func save(t *testing.T, variant string) string {
	t.Helper()
	out, err := exec.Command("iptables-" + variant + "-save").Output()
	must(t, err)
	var lines []string
	for line := range strings.Lines(string(out)) {
		if line, _, _ = strings.Cut(line, " ["); !strings.HasPrefix(line, "#") { // counters
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// eachVariant runs a test with both kinds of iptables, each in its namespace.
func eachVariant(t *testing.T, test func(t *testing.T, variant string)) {
	for _, variant := range []string{"nft", "legacy"} {
		t.Run(variant, func(t *testing.T) {
			if _, err := exec.LookPath("iptables-" + variant); err != nil {
				skip(t, "there is no iptables-"+variant)
			}
			if inChild(t, syscall.CLONE_NEWNET) {
				iptables(t, variant)
				test(t, variant)
			}
		})
	}
}

func restore(t *testing.T, variant, file string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", file))
	must(t, err)
	cmd := exec.Command("iptables-" + variant + "-restore")
	cmd.Stdin = strings.NewReader(string(text))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", file, err, out)
	}
}

func (s street) find(t *testing.T) Found {
	t.Helper()
	found, err := Reader{}.Find(t.Context(), s.guests)
	must(t, err)
	return found
}

const mark = "bield /run/bield test"

func TestDocker(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant string) {
		s := newStreet(t)
		if got := s.passing(t, everything); got != everything || s.find(t).Obstacles != nil {
			t.Fatalf("without another firewall %q passes, %v", got, s.find(t).Obstacles)
		}
		restore(t, variant, "docker.save")
		if got := s.passing(t, "DPHG"); got != "DPHG" {
			t.Fatalf("Docker lets %q pass", got)
		}
		found := s.find(t)
		openings, rest := found.Openings(t.Context(), s.guests, mark)
		if !found.Sure() || len(rest) != 0 || len(openings) != 1 || openings[0].Kind != Docker {
			t.Fatalf("%v: %+v, rest %v", found.Obstacles, openings, rest)
		}
		before := save(t, variant)
		must(t, openings[0].Open(t.Context()))
		must(t, openings[0].Open(t.Context()))
		if n := strings.Count(save(t, variant), mark); n != 2 {
			t.Errorf("%d rules have the mark:\n%s", n, save(t, variant))
		}
		if got := s.passing(t, everything); got != everything || s.find(t).Obstacles != nil {
			t.Errorf("%q passes, %v", got, s.find(t).Obstacles)
		}
		must(t, openings[0].Close(t.Context()))
		must(t, openings[0].Close(t.Context()))
		if after := save(t, variant); after != before {
			t.Errorf("left:\n%s\nbefore:\n%s", after, before)
		}
		if got := s.passing(t, "DPHG"); got != "DPHG" {
			t.Errorf("closed, %q passes", got)
		}
		// Docker is stopped and started: its chain is gone, then there anew.
		must(t, openings[0].Open(t.Context()))
		sh(t, "iptables -F FORWARD; iptables -F DOCKER-USER; iptables -X DOCKER-USER")
		must(t, openings[0].Close(t.Context()))
		if err := openings[0].Open(t.Context()); err == nil {
			t.Error("opened a chain that is not there")
		}
		sh(t, "iptables -N DOCKER-USER; iptables -A DOCKER-USER -j RETURN; iptables -I FORWARD -j DOCKER-USER")
		must(t, openings[0].Open(t.Context()))
		if got := s.passing(t, everything); got != everything {
			t.Errorf("in the new chain %q passes", got)
		}
	})
}

// TestNoPlace: a policy and no chain for others' rules. The advice is true.
func TestNoPlace(t *testing.T) {
	eachVariant(t, func(t *testing.T, _ string) {
		s := newStreet(t)
		sh(t, "iptables -P FORWARD DROP; iptables -P INPUT DROP; iptables -A INPUT -i lo -j ACCEPT; iptables -A INPUT -p tcp --dport 22 -j ACCEPT")
		if got := s.passing(t, ""); got != "" {
			t.Fatalf("%q passes", got)
		}
		found := s.find(t)
		openings, rest := found.Openings(t.Context(), s.guests, mark)
		if !found.Sure() || openings != nil || len(rest) != 2 || !rest[0].Sure() || !rest[1].Sure() {
			t.Fatalf("%+v, %v", openings, rest)
		}
		takeAdvice(t, rest, s.guests)
		if got := s.passing(t, everything); got != everything || s.find(t).Obstacles != nil {
			t.Errorf("after the advice %q passes, %v", got, s.find(t).Obstacles)
		}
	})
}

func takeAdvice(t *testing.T, found []Obstacle, g Guests) {
	t.Helper()
	for _, o := range found {
		for _, line := range o.Advice(g) {
			if command, is := strings.CutPrefix(line, "sudo "); is {
				sh(t, command)
			}
		}
	}
}

// TestUFW has the rules that ufw writes, before and after what is advised.
func TestUFW(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant string) {
		s := newStreet(t)
		restore(t, variant, "ufw.save")
		if got := s.passing(t, "G"); got != "G" {
			t.Fatalf("ufw lets %q pass", got)
		}
		found := s.find(t)
		openings, rest := found.Openings(t.Context(), s.guests, mark)
		var advice []string
		for _, o := range rest {
			advice = append(advice, o.Advice(s.guests)...)
		}
		if !found.Sure() || openings != nil || strings.Join(advice, "; ") != "ufw: sudo ufw route allow in on microbr out on eth0; ufw: sudo ufw allow in on microbr (bield's own rules say what guests may of the host)" {
			t.Fatalf("%+v, %v, %q", openings, rest, advice)
		}
		// What `ufw route allow in on … out on …` and `ufw allow in on …` write.
		sh(t, "iptables -A ufw-user-forward -i microbr -o eth0 -j ACCEPT; iptables -A ufw-user-input -i microbr -j ACCEPT")
		if got := s.passing(t, everything); got != everything || s.find(t).Obstacles != nil {
			t.Errorf("after the advice %q passes, %v", got, s.find(t).Obstacles)
		}
	})
}

// firewallCmd does to the rules what firewalld does for these calls, and fails
// for others.
const firewallCmd = `#!/bin/sh -e
echo "$*" >> "$CALLS"
rules() { nft -a list ruleset | sed -n 's/.*"microbr".*filter_\(FWD\|IN\)_trusted # handle \([0-9]*\)/\1 \2/p'; }
case "$*" in
  "--zone=trusted --query-interface=microbr") [ -n "$(rules)" ] ;;
  "--zone=trusted --add-interface=microbr")
    nft 'add chain inet firewalld filter_FWD_trusted; add chain inet firewalld filter_IN_trusted'
    nft 'add rule inet firewalld filter_FWD_trusted accept; add rule inet firewalld filter_IN_trusted accept'
    nft 'insert rule inet firewalld filter_FORWARD_ZONES iifname microbr goto filter_FWD_trusted'
    nft 'insert rule inet firewalld filter_INPUT_ZONES iifname microbr goto filter_IN_trusted' ;;
  "--zone=trusted --remove-interface=microbr")
    rules | while read -r kind handle; do
      case $kind in FWD) chain=FORWARD;; IN) chain=INPUT;; esac
      nft delete rule inet firewalld filter_${chain}_ZONES handle $handle
    done ;;
  *) echo "usage: $*" >&2; exit 2 ;;
esac
`

func TestFirewalld(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		skip(t, "there is no nft")
	}
	if !inChild(t, syscall.CLONE_NEWNET) {
		return
	}
	s := newStreet(t)
	loadNFT(t, firewalldWhole)
	// What bield's own rules have redirected it takes: ct status dnat.
	if got := s.passing(t, "DPG"); got != "DPG" {
		t.Fatalf("firewalld lets %q pass", got)
	}
	if openings, rest := s.find(t).Openings(t.Context(), s.guests, mark); openings != nil || len(rest) != 2 {
		t.Errorf("without firewall-cmd: %+v, %v", openings, rest)
	}
	bin := t.TempDir()
	must(t, os.WriteFile(filepath.Join(bin, "firewall-cmd"), []byte(firewallCmd), 0o755))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("CALLS", filepath.Join(bin, "calls"))
	openings, rest := s.find(t).Openings(t.Context(), s.guests, mark)
	if len(openings) != 1 || openings[0].Kind != Firewalld || rest != nil {
		t.Fatalf("%+v, %v", openings, rest)
	}
	for range 2 {
		must(t, openings[0].Open(t.Context()))
		if got := s.passing(t, everything); got != everything || s.find(t).Obstacles != nil {
			t.Errorf("%q passes, %v", got, s.find(t).Obstacles)
		}
	}
	must(t, openings[0].Close(t.Context()))
	must(t, openings[0].Close(t.Context()))
	if got := s.passing(t, "DPG"); got != "DPG" || !s.find(t).Sure() {
		t.Errorf("closed, %q passes", got)
	}
	// firewalld is restarted: what was open is not, and is opened again.
	must(t, openings[0].Open(t.Context()))
	sh(t, "nft delete table inet firewalld")
	loadNFT(t, firewalldWhole)
	if !s.find(t).Sure() {
		t.Error("after a restart nothing stops guests")
	}
	must(t, openings[0].Open(t.Context()))
	if got := s.passing(t, everything); got != everything {
		t.Errorf("opened again, %q passes", got)
	}
	// One that does not run has nothing to close.
	must(t, os.WriteFile(filepath.Join(bin, "firewall-cmd"), []byte("#!/bin/sh\necho FirewallD is not running\nexit 252\n"), 0o755))
	must(t, openings[0].Close(t.Context()))
	if err := openings[0].Open(t.Context()); err == nil || !strings.Contains(err.Error(), "is not running") {
		t.Errorf("%v", err)
	}
}

// firewalldWhole is firewalldRules with the dispatch of its input too.
const firewalldWhole = `table inet firewalld {
 chain filter_FORWARD { type filter hook forward priority 10; policy accept;
  ct state { established, related } accept; ct status dnat accept; iifname "lo" accept; ct state invalid drop
  jump filter_FORWARD_ZONES; reject with icmpx admin-prohibited }
 chain filter_FORWARD_ZONES { iifname "eth0" goto filter_FWD_public; goto filter_FWD_public }
 chain filter_FWD_public { jump filter_FWD_public_allow; reject with icmpx admin-prohibited }
 chain filter_FWD_public_allow { oifname "eth1" accept }
 chain filter_INPUT { type filter hook input priority 10; policy accept;
  ct state { established, related } accept; ct status dnat accept; iifname "lo" accept; ct state invalid drop
  jump filter_INPUT_ZONES; reject with icmpx admin-prohibited }
 chain filter_INPUT_ZONES { iifname "eth0" goto filter_IN_public; goto filter_IN_public }
 chain filter_IN_public { tcp dport 22 ct state { new, untracked } accept; reject with icmpx admin-prohibited }
}`
