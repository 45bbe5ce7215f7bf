package egress

import (
	"context"
	"fmt"
	"log/slog"
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

// childEnv names the test that runs in this process, in a namespace of its own.
const childEnv = "BIELD_TEST_NAMESPACE"

// The stage: a guest and a sibling on the host's bridge, and behind the host an
// internet and a private network, both on one link.
const (
	gatewayIP = "192.168.83.1"
	guestIP   = "192.168.83.2"
	hostIP    = "9.9.9.1" // of the host on the internet's link
	netIP     = "9.9.9.9" // name server of the internet
	siteIP    = "9.9.8.1" // allowed.test and shared.test
	otherIP   = "9.9.8.2"
	lanIP     = "10.5.5.5"
	dnsIP     = "9.9.9.9:53"
	logGroup  = 4711
)

// inNamespace runs the calling test again in a child process with a network
// namespace of its own, which plays the host, and reports true in that child.
func inNamespace(t testing.TB) bool {
	t.Helper()
	if os.Getenv(childEnv) == t.Name() {
		return true
	}
	for _, need := range []string{"nft", "ip"} {
		if _, err := exec.LookPath(need); err != nil {
			skip(t, need+" is missing")
		}
	}
	if os.Geteuid() != 0 {
		skip(t, "namespaces need root")
	}
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v", "-test.timeout=120s"}
	if _, bench := t.(*testing.B); bench {
		args = []string{"-test.run=^$", "-test.bench=^" + t.Name() + "$", "-test.timeout=120s"}
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), childEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("in its namespace: %v\n%s", err, out)
	}
	if _, bench := t.(*testing.B); bench {
		t.Logf("in its namespace:\n%s", out)
	} else if !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("in its namespace the test did not run:\n%s", out)
	}
	return false
}

func skip(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("BIELD_TEST_REQUIRE") == "1" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// space is a network namespace beside the test's own.
type space struct{ netns.NsHandle }

func newSpace(t testing.TB) space {
	t.Helper()
	var s space
	onThread(t, func() (err error) {
		s.NsHandle, err = netns.New()
		return err
	})
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// in runs do in the namespace; sockets that it makes stay there.
func (s space) in(t testing.TB, do func() error) {
	t.Helper()
	onThread(t, func() error {
		if err := netns.Set(s.NsHandle); err != nil {
			return err
		}
		return do()
	})
}

// onThread runs do on a thread that ends with it, whatever namespace it is in.
func onThread(t testing.TB, do func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends
		done <- do()
	}()
	must(t, <-done)
}

func sh(lines string) error {
	out, err := exec.Command("sh", "-ec", lines).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", lines, err, out)
	}
	return nil
}

// stage is a host with bield's egress process on it, a guest and an internet.
type stage struct {
	guest, internet space
	client          *Client
	policy          Policy
	ports           Ports
}

// newStage makes the namespaces, the rules that the firewall would make, and
// starts egress in the host's.
func newStage(t testing.TB) *stage {
	t.Helper()
	s := &stage{guest: newSpace(t), internet: newSpace(t)}
	must(t, sh(fmt.Sprintf(`
		ip link set lo up
		echo 1 > /proc/sys/net/ipv4/ip_forward
		ip link add microbr type veth peer name eth0 netns /proc/%[1]d/fd/%[2]d
		ip link add wan type veth peer name eth0 netns /proc/%[1]d/fd/%[3]d
		ip addr add %[4]s/24 dev microbr
		ip addr add %[5]s/24 dev wan
		ip link set microbr up
		ip link set wan up
		ip route add default via %[6]s`, os.Getpid(), int(s.guest.NsHandle), int(s.internet.NsHandle), gatewayIP, hostIP, netIP)))
	s.guest.in(t, func() error {
		return sh(`ip link set lo up; ip addr add ` + guestIP + `/24 dev eth0; ip link set eth0 up; ip route add default via ` + gatewayIP)
	})
	s.internet.in(t, func() error {
		return sh(`ip link set lo up; ip addr add ` + netIP + `/24 dev eth0; ip link set eth0 up; ip route add default via ` + hostIP + `
			for a in ` + strings.Join([]string{siteIP, otherIP, lanIP, "169.254.169.254"}, " ") + `; do ip addr add $a/32 dev lo; done`)
	})
	s.start(t)
	return s
}

func (s *stage) start(t testing.TB) {
	t.Helper()
	control := filepath.Join(t.TempDir(), "egress.sock")
	opened, err := Open(t.Context(), netip.MustParseAddr(gatewayIP), control, logGroup)
	must(t, err)
	s.ports = opened.Ports
	sockets, err := fromFiles(opened.Files)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, sockets, slog.New(slog.DiscardHandler)) }()
	s.client = NewClient(control)
	t.Cleanup(func() {
		cancel()
		s.client.Close()
		select {
		case err := <-ended:
			must(t, err)
		case <-time.After(20 * time.Second):
			t.Error("egress did not end")
		}
	})
	s.policy = Policy{
		Nameservers: []netip.AddrPort{netip.MustParseAddrPort(dnsIP)},
		Gateway:     netip.MustParseAddr(gatewayIP), Subnet: netip.MustParsePrefix("192.168.83.0/24"),
	}
}

// set gives the guest these rules: in the process, and in the kernel.
func (s *stage) set(t testing.TB, e spec.Egress) {
	t.Helper()
	s.policy.VMs = []VM{{Name: "claude", IP: netip.MustParseAddr(guestIP), Egress: e}}
	status, err := s.client.Set(t.Context(), s.policy)
	must(t, err)
	if status.Version != s.policy.Version() {
		t.Fatalf("the policy in force is %s, not %s", status.Version, s.policy.Version())
	}
	dns := fmt.Sprintf("udp dport 53 redirect to :%d; tcp dport 53 redirect to :%d;", s.ports.DNS, s.ports.DNSTCP)
	tcp, forward := "", "accept"
	switch e.Effective() {
	case spec.EgressOpen:
		dns = ""
	case spec.EgressPublic:
		tcp = fmt.Sprintf("ip daddr { 10.0.0.0/8, 169.254.0.0/16, 192.168.0.0/16 } meta l4proto tcp redirect to :%d;", s.ports.Proxy)
	default:
		tcp = fmt.Sprintf("meta l4proto tcp redirect to :%d;", s.ports.Proxy)
		forward = fmt.Sprintf(`ct state established accept; log group %d prefix "bield" reject with icmp type admin-prohibited`, logGroup)
	}
	rules := fmt.Sprintf(`
		table ip bield
		delete table ip bield
		table ip bield {
			chain pre { type nat hook prerouting priority dstnat; iifname "microbr" jump guest; }
			chain guest { %s
				%s }
			chain post { type nat hook postrouting priority srcnat; oifname "wan" masquerade; }
			chain forward { type filter hook forward priority filter; iifname "microbr" jump leave; }
			chain leave { %s; }
		}`, dns, tcp, forward)
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s\n%s", err, out, rules)
	}
}

func target1(t testing.TB, text string) spec.Target {
	t.Helper()
	one, err := spec.ParseTarget(text)
	must(t, err)
	return one
}

func targets(t testing.TB, texts ...string) []spec.Target {
	t.Helper()
	var all []spec.Target
	for _, text := range texts {
		all = append(all, target1(t, text))
	}
	return all
}

// dial connects from the guest.
func (s *stage) dial(t testing.TB, to string) (c net.Conn, err error) {
	t.Helper()
	s.guest.in(t, func() error {
		c, err = net.DialTimeout("tcp", to, 5*time.Second)
		return nil
	})
	if err == nil {
		t.Cleanup(func() { c.Close() })
		must(t, c.SetDeadline(time.Now().Add(15*time.Second)))
	}
	return c, err
}
