package preflight

import (
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"bield/internal/spec"
	"bield/internal/state"
)

func TestForwarding(t *testing.T) {
	const file = "proc/sys/net/ipv4/ip_forward"
	expect(t, fakeHost(t, map[string]string{file: "1\n"}).forwarding(), OK, "on")
	expect(t, fakeHost(t, map[string]string{file: "0\n"}).forwarding(), OK, "off")
	expect(t, fakeHost(t, nil).forwarding(), Fail)
}

func TestForwardingReadOnly(t *testing.T) {
	if !inChild(t, syscall.CLONE_NEWNET|syscall.CLONE_NEWNS) {
		return
	}
	sh(t, "mount --make-rprivate /; mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys; cat /proc/sys/net/ipv4/ip_forward | grep -q 0")
	expect(t, Host{}.forwarding(), Fail, "read-only", "--sysctl net.ipv4.ip_forward=1")
}

func TestBrNetfilter(t *testing.T) {
	const file = "proc/sys/net/bridge/bridge-nf-call-iptables"
	expect(t, fakeHost(t, map[string]string{file: "1\n"}).brNetfilter(), OK, "is 1")
	expect(t, fakeHost(t, map[string]string{file: "0\n"}).brNetfilter(), OK, "is 0")
	expect(t, fakeHost(t, nil).brNetfilter(), OK, "not loaded")
}

// TestNetworkOfTheKernel goes through what can be in the way of bridge, subnet
// and external interface, in a namespace of its own.
func TestNetworkOfTheKernel(t *testing.T) {
	if !inChild(t, syscall.CLONE_NEWNET) {
		return
	}
	h := Host{Run: state.Run{Dir: "/run/bield"}, Config: Config{Host: spec.DefaultHost()}}
	for _, step := range []struct {
		name, script string
		look         func() Result
		want         State
		words        string
	}{
		{"no way out", "ip link set lo up", func() Result { return h.externalInterface(t.Context()) }, Warn, "no default route"},
		{"free", "ip link add eth9 type veth peer name eth9p; ip link set eth9p up; ip addr add 198.51.100.2/24 dev eth9; ip link set eth9 up; ip route add default via 198.51.100.1",
			func() Result { return h.subnet(t.Context()) }, OK, "192.168.83.0/24 is free"},
		{"a way out", "", func() Result { return h.externalInterface(t.Context()) }, OK, "by eth9"},
		{"a name that is free", "", func() Result { return h.bridge(t.Context()) }, OK, "microbr is free"},
		{"an address", "ip link add lan type veth peer name lanp; ip link set lanp up; ip addr add 192.168.83.77/24 dev lan; ip link set lan up",
			func() Result { return h.subnet(t.Context()) }, Fail, "the address 192.168.83.77/24 of interface lan\nset `subnet: 192.168.84` in the configuration"},
		{"a route", "ip addr flush dev lan; ip route add 192.168.0.0/16 dev lan",
			func() Result { return h.subnet(t.Context()) }, Fail, "the route 192.168.0.0/16 of interface lan\nset `subnet: 10.0.0` in"},
		{"halves of a default route", "ip route del 192.168.0.0/16; ip route add 128.0.0.0/1 dev lan",
			func() Result { return h.subnet(t.Context()) }, OK, "is free"},
		{"a route of another table", "ip route add 192.168.83.0/24 dev lan table 52",
			func() Result { return h.subnet(t.Context()) }, Warn, "(routing table 52)"},
		{"the bridge itself", "ip route flush table 52; ip link add microbr type bridge; ip addr add 192.168.83.1/24 dev microbr; ip link set microbr up",
			func() Result { return h.subnet(t.Context()) }, OK, "is free"},
		{"a bridge that fits", "", func() Result { return h.bridge(t.Context()) }, OK, "not bield's, and fits"},
		{"a bridge that is down", "ip link set microbr down", func() Result { return h.bridge(t.Context()) }, Fail, "sudo ip link set dev microbr up"},
		{"a bridge with another address", "ip addr flush dev microbr; ip addr add 10.9.9.1/24 dev microbr",
			func() Result { return h.bridge(t.Context()) }, Fail, "(it has [10.9.9.1/24])\nsudo ip addr add 192.168.83.1/24 dev microbr"},
		{"bield's own", "ip link set microbr alias 'bield /run/bield'", func() Result { return h.bridge(t.Context()) }, OK, "bield's own"},
		{"no bridge", "ip link del microbr; ip link add microbr type veth peer name microbrp; ip link set microbrp up", func() Result { return h.bridge(t.Context()) }, Fail, "no bridge but a veth"},
	} {
		if step.script != "" {
			sh(t, step.script)
		}
		r := step.look()
		all := r.Found + "\n" + strings.Join(r.Do, "\n")
		if r.State != step.want || !strings.Contains(all, step.words) {
			t.Errorf("%s: %s %q, want %s %q", step.name, r.State, all, step.want, step.words)
		}
	}
}

func TestExternalInterface(t *testing.T) {
	if !inChild(t, syscall.CLONE_NEWNET) {
		return
	}
	h := Host{Run: state.Run{Dir: "/run/bield"}, Config: Config{Host: spec.DefaultHost()}}
	h.Config.Host.ExternalInterface = "wan0"
	sh(t, "ip link add eth9 type veth peer name eth9p; ip link set eth9p up; ip addr add 198.51.100.2/24 dev eth9; ip link set eth9 up; ip route add default via 198.51.100.1; ip link add microbr type bridge")
	r := h.externalInterface(t.Context())
	expect(t, r, Fail, "there is no interface wan0", "one of: eth9p, eth9")
	if strings.Contains(strings.Join(r.Do, ""), "microbr") {
		t.Errorf("the bridge as a way out: %q", r.Do)
	}
	sh(t, "ip link add wan0 type veth peer name wan0p; ip link set wan0p up")
	expect(t, h.externalInterface(t.Context()), Warn, "wan0 is down")
	sh(t, "ip link set wan0 up")
	expect(t, h.externalInterface(t.Context()), Warn, "default route is by eth9", "externalInterface: eth9")
	sh(t, "ip route add default dev wan0 metric 5; ip route del default dev eth9; ip route add default via 198.51.100.1 metric 50")
	expect(t, h.externalInterface(t.Context()), OK, "wan0 is there")
}

func TestFreeSubnet(t *testing.T) {
	for wanted, want := range map[string]string{
		"192.168.83.0/24": "192.168.84", "192.168.255.0/24": "192.168.0", "10.20.0.0/16": "10.21.0.0/16", "10.0.0.0/8": "", "192.168.83.0/28": "192.168.83.16/28",
	} {
		got, found := view{}.free(netip.MustParsePrefix(wanted), "microbr")
		if found != (want != "") || found && shortSubnet(got) != want {
			t.Errorf("beside %s: %v, want %q", wanted, got, want)
		}
	}
}
