package network

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const owner = "bield /run/bield"

func testBridge() Bridge {
	return Bridge{Name: "microbr", Address: netip.MustParsePrefix("192.168.83.1/24"), Owner: owner}
}

func sysctl(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return strings.TrimSpace(string(b))
}

func wantBridge(t *testing.T, b Bridge) {
	t.Helper()
	links, err := Observe(b.Owner)
	must(t, err)
	want := []BridgeStatus{{Name: b.Name, Up: true, Addresses: []netip.Prefix{b.Address}}}
	if !reflect.DeepEqual(links.Bridges, want) {
		t.Errorf("bridges: got %+v, want %+v", links.Bridges, want)
	}
	if got := sysctl(t, ipv6Conf+b.Name+"/disable_ipv6"); got != "1" {
		t.Errorf("disable_ipv6 is %s", got)
	}
	if got := sysctl(t, ipv4Conf+b.Name+"/accept_redirects"); got != "0" {
		t.Errorf("accept_redirects is %s", got)
	}
}

// bridgeOption reads one IFLA_BR_* attribute back.
func bridgeOption(t *testing.T, link netlink.Link, attr uint16) uint32 {
	t.Helper()
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(link.Attrs().Index)
	req.AddData(msg)
	answers, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	must(t, err)
	data := answers[0][unix.SizeofIfInfomsg:]
	for _, kind := range []uint16{unix.IFLA_LINKINFO, nl.IFLA_INFO_DATA, attr} {
		data = attribute(t, data, kind)
	}
	return binary.NativeEndian.Uint32(append(data, 0, 0, 0, 0))
}

func attribute(t *testing.T, data []byte, kind uint16) []byte {
	t.Helper()
	attrs, err := nl.ParseRouteAttr(data)
	must(t, err)
	for _, a := range attrs {
		if a.Attr.Type&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER) == kind {
			return a.Value
		}
	}
	t.Fatalf("no attribute %d", kind)
	return nil
}

func TestBridgeOptions(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := testBridge()
	_, err := EnsureBridge(t.Context(), b)
	must(t, err)
	link := mustLink(t, b.Name)
	must(t, setBridgeOption(link, nl.IFLA_BR_STP_STATE, nl.Uint32Attr(1)))
	must(t, setBridgeOption(link, nl.IFLA_BR_FORWARD_DELAY, nl.Uint32Attr(1500)))
	for _, want := range []uint32{1, 0} {
		if got := bridgeOption(t, link, nl.IFLA_BR_STP_STATE); got != want {
			t.Errorf("spanning tree is %d, want %d", got, want)
		}
		_, err = EnsureBridge(t.Context(), b)
		must(t, err)
	}
	if got := bridgeOption(t, link, nl.IFLA_BR_FORWARD_DELAY); got != 0 {
		t.Errorf("the forward delay is %d", got)
	}
	if got := bridgeOption(t, link, bridgeMultiBoolopt); got&1 != 1 {
		t.Errorf("the options are %#x, without NO_LL_LEARN", got)
	}
}

func TestEnsureBridge(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := testBridge()
	made, err := EnsureBridge(t.Context(), b)
	must(t, err)
	if !made {
		t.Error("made is false for a new bridge")
	}
	wantBridge(t, b)

	made, err = EnsureBridge(t.Context(), b)
	must(t, err)
	if made {
		t.Error("made is true for a bridge that was there")
	}
	wantBridge(t, b)

	must(t, RemoveBridge(t.Context(), b))
	wantNoLink(t, b.Name)
	must(t, RemoveBridge(t.Context(), b))
}

func TestEnsureBridgeCompletes(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := testBridge()
	_, err := EnsureBridge(t.Context(), b)
	must(t, err)
	link := mustLink(t, b.Name)
	must(t, netlink.LinkSetDown(link))
	must(t, os.WriteFile(ipv6Conf+b.Name+"/disable_ipv6", []byte("0"), 0))
	other, err := netlink.ParseAddr("10.9.9.1/24")
	must(t, err)
	must(t, netlink.AddrAdd(link, other))
	_, err = EnsureBridge(t.Context(), b)
	must(t, err)
	wantBridge(t, b)

	// The old address shares the new one's subnet.
	b.Address = netip.MustParsePrefix("192.168.83.254/24")
	made, err := EnsureBridge(t.Context(), b)
	must(t, err)
	if made || mustLink(t, b.Name).Attrs().Index != link.Attrs().Index {
		t.Error("the bridge was made anew")
	}
	wantBridge(t, b)
}

func TestBridgeKeepsItsHardwareAddress(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := testBridge()
	_, err := EnsureBridge(t.Context(), b)
	must(t, err)
	before := mustLink(t, b.Name).Attrs().HardwareAddr
	low := named("low")
	low.HardwareAddr = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	low.MasterIndex = mustLink(t, b.Name).Attrs().Index
	addLink(t, &netlink.Veth{LinkAttrs: low, PeerName: "low-p"}, "")
	if after := mustLink(t, b.Name).Attrs().HardwareAddr; !slices.Equal(before, after) {
		t.Errorf("a port changed the hardware address: %s, then %s", before, after)
	}
}

func TestBridgeOfInterruptedMake(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := testBridge()
	attrs := named(b.Name)
	attrs.HardwareAddr = b.hardwareAddr()
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	_, err := EnsureBridge(t.Context(), b)
	must(t, err)
	wantBridge(t, b)
	if got := mustLink(t, b.Name).Attrs().Alias; got != owner {
		t.Errorf("alias %q", got)
	}
}

func TestForeignBridge(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := testBridge()
	attrs := named(b.Name)
	foreign := &netlink.Bridge{LinkAttrs: attrs}
	addLink(t, foreign, "192.168.83.1/24")
	must(t, netlink.LinkSetAlias(foreign, "somebody else's"))
	before := mustLink(t, b.Name).Attrs()
	ipv6 := sysctl(t, ipv6Conf+b.Name+"/disable_ipv6")

	made, err := EnsureBridge(t.Context(), b)
	must(t, err)
	if made {
		t.Error("made is true")
	}
	must(t, RemoveBridge(t.Context(), b))
	after := mustLink(t, b.Name).Attrs()
	if before.Index != after.Index || before.Alias != after.Alias || before.Flags != after.Flags || !slices.Equal(before.HardwareAddr, after.HardwareAddr) {
		t.Errorf("the bridge was changed: %+v, then %+v", before, after)
	}
	if sysctl(t, ipv6Conf+b.Name+"/disable_ipv6") != ipv6 {
		t.Error("its IPv6 setting was changed")
	}
	links, err := Observe(owner)
	must(t, err)
	if len(links.Bridges) != 0 {
		t.Errorf("observed as ours: %+v", links.Bridges)
	}

	must(t, netlink.LinkSetDown(foreign))
	_, err = EnsureBridge(t.Context(), b)
	wantError(t, err, b.Name, "ip link set dev microbr up")

	b.Address = netip.MustParsePrefix("192.168.84.1/24")
	_, err = EnsureBridge(t.Context(), b)
	wantError(t, err, b.Name, "192.168.83.1/24", "192.168.84.1/24")
}

func TestBridgeNameTaken(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := testBridge()
	addLink(t, pair(b.Name), "192.168.83.1/24")
	must(t, netlink.LinkSetAlias(mustLink(t, b.Name), owner))
	_, err := EnsureBridge(t.Context(), b)
	wantError(t, err, b.Name, "veth", "remove it")
	must(t, RemoveBridge(t.Context(), b))
	mustLink(t, b.Name)
}

func TestBridgeOverlap(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	b := testBridge()
	lan := pair("lan0")
	addLink(t, lan, "10.1.0.1/16")

	b.Address = netip.MustParsePrefix("10.1.7.1/24")
	_, err := EnsureBridge(t.Context(), b)
	wantError(t, err, "10.1.7.0/24", "10.1.0.1/16", "lan0", "subnet")
	wantNoLink(t, b.Name)

	addRoute(t, "192.168.0.0/16", lan)
	b.Address = netip.MustParsePrefix("192.168.83.1/24")
	_, err = EnsureBridge(t.Context(), b)
	wantError(t, err, "192.168.0.0/16", "lan0")

	// A default route, also one that a VPN split, is in nobody's way.
	addRoute(t, "0.0.0.0/0", lan)
	addRoute(t, "0.0.0.0/1", lan)
	addRoute(t, "128.0.0.0/1", lan)
	b.Address = netip.MustParsePrefix("172.30.0.1/24")
	_, err = EnsureBridge(t.Context(), b)
	must(t, err)
	// Its own address and route are in nobody's way either.
	_, err = EnsureBridge(t.Context(), b)
	must(t, err)
}

func addRoute(t *testing.T, dst string, link netlink.Link) {
	t.Helper()
	_, n, err := net.ParseCIDR(dst)
	must(t, err)
	must(t, netlink.RouteAdd(&netlink.Route{Dst: n, LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK}))
}

func TestBridgeUndo(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	remountProc(t, unix.MS_RDONLY)
	b := testBridge()
	_, err := EnsureBridge(t.Context(), b)
	wantError(t, err, "IPv6", b.Name, "/proc/sys")
	wantNoLink(t, b.Name)
	err = SetForwarding(sysctl(t, ipForward) == "0")
	wantError(t, err, "forwarding", "/proc/sys")
}

// remountProc mounts /proc/sys over itself, in this test's mount namespace.
func remountProc(t *testing.T, flags uintptr) {
	t.Helper()
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, ""))
	must(t, unix.Mount("", "/proc/sys", "", unix.MS_BIND|unix.MS_REMOUNT|flags, ""))
}

func TestCheckBridge(t *testing.T) {
	ok := testBridge()
	for name, change := range map[string]func(*Bridge){
		"IPv6":               func(b *Bridge) { b.Address = netip.MustParsePrefix("fd00::1/64") },
		"no address":         func(b *Bridge) { b.Address = netip.Prefix{} },
		"network address":    func(b *Bridge) { b.Address = netip.MustParsePrefix("192.168.83.0/24") },
		"one address":        func(b *Bridge) { b.Address = netip.MustParsePrefix("192.168.83.1/32") },
		"long name":          func(b *Bridge) { b.Name = "sixteencharacter" },
		"pattern":            func(b *Bridge) { b.Name = "br%d" },
		"path":               func(b *Bridge) { b.Name = "../all" },
		"dots":               func(b *Bridge) { b.Name = ".." },
		"no name":            func(b *Bridge) { b.Name = "" },
		"no owner":           func(b *Bridge) { b.Owner = "" },
		"long owner":         func(b *Bridge) { b.Owner = strings.Repeat("x", 256) },
		"owner with newline": func(b *Bridge) { b.Owner = "bield\n/run" },
	} {
		t.Run(name, func(t *testing.T) {
			b := ok
			change(&b)
			if b.check() == nil {
				t.Errorf("%+v was accepted", b)
			}
		})
	}
	must(t, ok.check())
}

func TestForwarding(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for _, want := range []bool{true, true, false, false} {
		must(t, SetForwarding(want))
		got, err := Forwarding()
		must(t, err)
		if got != want {
			t.Errorf("forwarding is %v after it was set to %v", got, want)
		}
	}
}
