package guest

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestNetworkFiles(t *testing.T) {
	needRoot(t)
	root := fill(t, map[string]string{"/run/resolved": "nameserver 127.0.0.53\n", "/etc/hosts": "old"})
	if err := os.Symlink("../run/resolved", root.at("/etc/resolv.conf")); err != nil {
		t.Fatal(err)
	}
	if err := writeNetworkFiles(root, testConfig()); err != nil {
		t.Fatal(err)
	}
	golden(t, "network-files.txt", content(t, root, "/etc/hostname")+"--\n"+content(t, root, "/etc/hosts")+"--\n"+content(t, root, "/etc/resolv.conf"))
	if content(t, root, "/run/resolved") != "nameserver 127.0.0.53\n" {
		t.Error("wrote through the symbolic link")
	}
	if st, err := os.Lstat(root.at("/etc/resolv.conf")); err != nil || !st.Mode().IsRegular() {
		t.Errorf("resolv.conf is %v, %v", st, err)
	}
}

func TestBroadcast(t *testing.T) {
	for p, want := range map[string]string{"192.168.83.2/24": "192.168.83.255", "10.1.2.3/8": "10.255.255.255", "10.0.0.1/30": "10.0.0.3"} {
		if got := broadcast(netip.MustParsePrefix(p)); got.String() != want {
			t.Errorf("%s: %s, want %s", p, got, want)
		}
	}
}

// TestConfigureInterface uses the real kernel: the interface has another name
// than one would guess, comes late, and is found by its MAC.
func TestConfigureInterface(t *testing.T) {
	if _, err := exec.LookPath("ip"); err != nil {
		skip(t, "needs ip of iproute2")
	}
	if !inNamespaces(t, unix.CLONE_NEWNET|unix.CLONE_NEWUTS) {
		return
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig()
	run := func(args ...string) {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Errorf("ip %v: %v: %s", args, err, out)
		}
	}
	ctx := testContext(t)
	done := make(chan error, 1)
	go func() { done <- setUpNetwork(ctx, cfg.Network) }()
	run("link", "add", "decoy", "up", "type", "veth", "peer", "name", "odd0", "address", cfg.Network.MAC)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	checkInterface(t, "odd0")
	// A second time must change nothing and be no error.
	if err := setUpNetwork(ctx, cfg.Network); err != nil {
		t.Fatal(err)
	}
	checkInterface(t, "odd0")
}

func checkInterface(t *testing.T, name string) {
	t.Helper()
	i, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := i.Addrs()
	if err != nil || len(addrs) != 1 || addrs[0].String() != "192.168.83.2/24" || i.Flags&net.FlagUp == 0 {
		t.Errorf("%s has %v, %v, %v", name, addrs, i.Flags, err)
	}
	lo, err := net.InterfaceByName("lo")
	if err != nil || lo.Flags&net.FlagUp == 0 {
		t.Errorf("lo is %v, %v", lo, err)
	}
	out, err := exec.Command("ip", "route", "show", "default").Output()
	if want := "default via 192.168.83.1 dev " + name + " proto static onlink"; err != nil || strings.TrimSpace(string(out)) != want {
		t.Errorf("route %q, %v", out, err)
	}
	if b, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6"); err == nil && strings.TrimSpace(string(b)) != "1" {
		t.Errorf("IPv6 is on")
	}
}

func TestMissingInterface(t *testing.T) {
	if !inNamespaces(t, unix.CLONE_NEWNET) {
		return
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := setUpNetwork(ctx, testConfig().Network)
	if err == nil || !strings.Contains(err.Error(), "no network interface has the MAC 02:00:00:01:b8:4b") {
		t.Fatalf("got %v", err)
	}
}

func TestParseAck(t *testing.T) {
	good := append(encode(unix.NlMsghdr{Len: 36, Type: unix.NLMSG_ERROR, Seq: 3}), encode(-int32(unix.EPERM))...)
	if seq, errno, ok := parseAck(good); seq != 3 || errno != unix.EPERM || !ok {
		t.Errorf("%d %v %v", seq, errno, ok)
	}
	if _, _, ok := parseAck(good[:17]); ok {
		t.Error("took half a message")
	}
}
