package firewall

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"bield/internal/spec"
)

// childEnv names the test that runs in this process, in a namespace of its own.
const childEnv = "BIELD_TEST_NAMESPACE"

// inNamespace runs the calling test again in a child process with a network
// namespace of its own, and reports true in that child. Nothing reaches the
// namespace of the machine.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(childEnv) == t.Name() {
		return true
	}
	if os.Geteuid() != 0 {
		skip(t, "namespaces need root")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=90s")
	cmd.Env = append(os.Environ(), childEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("in its namespace: %v\n%s", err, out)
	}
	if !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("in its namespace the test did not run:\n%s", out)
	}
	return false
}

func skip(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("BIELD_TEST_REQUIRE") == "1" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantError fails unless err mentions every one of the words.
func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one that mentions %q", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not mention %q", err, w)
		}
	}
}

// space is a network namespace beside the test's own, which plays the host.
type space struct{ netns.NsHandle }

func newSpace(t *testing.T) space {
	t.Helper()
	var s space
	onThread(t, func() (err error) {
		s.NsHandle, err = netns.New()
		return err
	})
	t.Cleanup(func() { s.Close() })
	s.do(t, func() error {
		if err := quietIPv6(); err != nil {
			return err
		}
		return up("lo")
	})
	return s
}

// do runs f on a thread that is in the namespace.
func (s space) do(t *testing.T, f func() error) {
	t.Helper()
	onThread(t, func() error {
		if err := netns.Set(s.NsHandle); err != nil {
			return err
		}
		return f()
	})
}

// onThread runs f on a thread that ends with it, whatever namespace it is in then.
func onThread(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	must(t, <-done)
}

// quietIPv6 keeps neighbour discovery of the test's own out of what it counts.
func quietIPv6() error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

func up(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// address gives an interface of the thread's namespace an address and brings it up.
func address(name, prefix string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(prefix)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func route(dst, via string) error {
	_, n, err := net.ParseCIDR(dst)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{Dst: n, Gw: net.ParseIP(via)})
}

// connectTo makes a veth pair: name on the host, eth0 in the namespace.
func (s space) connectTo(t *testing.T, name, mac string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	peer, err := net.ParseMAC(mac)
	must(t, err)
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerHardwareAddr: peer, PeerNamespace: netlink.NsFd(s.NsHandle)}))
}

// lab is a host with a bridge, two guests and a stranger on it, an internet
// and a second network beside it.
type lab struct {
	config             Config
	guest1, guest2     space
	stranger           space
	internet, intranet space
	bridgeMAC          net.HardwareAddr
	t                  *testing.T
	sockets            map[string]int
}

const (
	hostIP, guest1IP, guest2IP, strangerIP = "192.168.83.1", "192.168.83.2", "192.168.83.3", "192.168.83.9"
	guest1MAC, guest2MAC, strangerMAC      = "02:00:00:01:00:01", "02:00:00:01:00:02", "02:00:00:02:00:09"
	externalIP, internetIP                 = "11.22.33.2", "11.22.33.1"
	secondIP, intranetIP                   = "203.0.113.2", "203.0.113.1"
)

func newLab(t *testing.T) *lab {
	t.Helper()
	must(t, quietIPv6())
	must(t, up("lo"))
	must(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
	l := &lab{config: testConfig(), t: t, sockets: map[string]int{}}
	l.internet = outside(t, "ext0", "02:00:00:03:00:01", externalIP, internetIP)
	l.intranet = outside(t, "lan0", "02:00:00:03:00:01", secondIP, intranetIP)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "microbr"
	attrs.HardwareAddr = net.HardwareAddr{0x0a, 0, 0, 0, 0, 1}
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	must(t, address("microbr", hostIP+"/24"))
	l.bridgeMAC = attrs.HardwareAddr
	know(t, guest1IP, guest1MAC)
	know(t, guest2IP, guest2MAC)
	l.guest1 = onBridge(t, "mv1", guest1MAC, guest1IP)
	l.guest2 = onBridge(t, "mv2", guest2MAC, guest2IP)
	l.stranger = onBridge(t, "other", strangerMAC, strangerIP)
	l.ready(t)
	return l
}

// know fixes the host's ARP entry, which the attacks of one test would spoil
// for the next.
func know(t *testing.T, ip, mac string) {
	t.Helper()
	bridge, err := netlink.LinkByName("microbr")
	must(t, err)
	must(t, netlink.NeighSet(&netlink.Neigh{LinkIndex: bridge.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(ip), HardwareAddr: parseMAC(mac)}))
}

func onBridge(t *testing.T, name, mac, ip string) space {
	t.Helper()
	s := newSpace(t)
	s.connectTo(t, name, mac)
	bridge, err := netlink.LinkByName("microbr")
	must(t, err)
	link, err := netlink.LinkByName(name)
	must(t, err)
	must(t, netlink.LinkSetMaster(link, bridge))
	must(t, netlink.LinkSetUp(link))
	s.do(t, func() error {
		if err := address("eth0", ip+"/24"); err != nil {
			return err
		}
		return route("0.0.0.0/0", hostIP)
	})
	return s
}

// outside knows the way to the guests, which no real internet does.
func outside(t *testing.T, name, mac, host, peer string) space {
	t.Helper()
	s := newSpace(t)
	s.connectTo(t, name, mac)
	must(t, address(name, host+"/24"))
	s.do(t, func() error {
		if err := address("eth0", peer+"/24"); err != nil {
			return err
		}
		return route("192.168.83.0/24", host)
	})
	return s
}

func testConfig() Config {
	return Config{
		Owner: "bield /run/bield", Bridge: "microbr",
		Gateway: netip.MustParseAddr(hostIP), Subnet: netip.MustParsePrefix("192.168.83.0/24"),
		VMs: []VM{
			{Tap: "mv1", MAC: guest1MAC, IP: netip.MustParseAddr(guest1IP), Egress: spec.Egress{Mode: spec.EgressOpen}},
			{Tap: "mv2", MAC: guest2MAC, IP: netip.MustParseAddr(guest2IP), Egress: spec.Egress{Mode: spec.EgressOpen}},
		},
	}
}

// echo answers each datagram, and each connection, with the sender's address.
func echo(t *testing.T, in *space, addr string) {
	t.Helper()
	var udp net.PacketConn
	var tcp net.Listener
	listen := func() (err error) {
		if udp, err = net.ListenPacket("udp4", addr); err != nil {
			return err
		}
		tcp, err = net.Listen("tcp4", addr)
		return err
	}
	if in == nil {
		must(t, listen())
	} else {
		in.do(t, listen)
	}
	t.Cleanup(func() { udp.Close(); tcp.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			_, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo([]byte(from.String()), from)
		}
	}()
	go func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			_, _ = fmt.Fprint(conn, conn.RemoteAddr())
			conn.Close()
		}
	}()
}
