package guest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"bield/internal/guestconfig"
)

const sysNet = "/sys/class/net"

// setUpNetwork gives the interface with the configured MAC its one address.
func setUpNetwork(ctx context.Context, n guestconfig.Network) error {
	ctx, cancel := context.WithTimeout(ctx, deviceTimeout)
	defer cancel()
	var name string
	err := waitForDevice(ctx, func() (err error) {
		name, err = interfaceByMAC(sysNet, n.MAC)
		return err
	})
	if err != nil {
		return err
	}
	// Before the interface is up, or it would get a link-local address.
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
	return configureInterface(name, n)
}

func configureInterface(name string, n guestconfig.Network) error {
	address, err := netip.ParsePrefix(n.Address)
	if err != nil {
		return fmt.Errorf("address of %s: %w", name, err)
	}
	gateway, err := netip.ParseAddr(n.Gateway)
	if err != nil {
		return fmt.Errorf("gateway of %s: %w", name, err)
	}
	lo, index, err := twoIndexes("lo", name)
	if err != nil {
		return err
	}
	r, err := openRtnetlink()
	if err != nil {
		return err
	}
	defer r.close()
	steps := []struct {
		what string
		do   func() error
	}{
		{"set lo up", func() error { return r.linkUp(lo) }},
		{"give " + name + " the address " + n.Address, func() error { return r.addAddress(index, address) }},
		{"set " + name + " up", func() error { return r.linkUp(index) }},
		{"route over " + n.Gateway, func() error { return r.addDefaultRoute(index, gateway) }},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	return nil
}

func twoIndexes(a, b string) (int, int, error) {
	i, err := interfaceIndex(a)
	if err != nil {
		return 0, 0, err
	}
	j, err := interfaceIndex(b)
	return i, j, err
}

func interfaceIndex(name string) (int, error) {
	b, err := os.ReadFile(filepath.Join(sysNet, name, "ifindex"))
	if err != nil {
		return 0, fmt.Errorf("index of interface %s: %w", name, err)
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// interfaceByMAC finds the interface, whatever the kernel or udev calls it.
func interfaceByMAC(dir, mac string) (string, error) {
	want, err := net.ParseMAC(mac)
	if err != nil {
		return "", err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("list network interfaces: %w", err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name(), "address"))
		if err != nil {
			continue
		}
		if got, err := net.ParseMAC(strings.TrimSpace(string(b))); err == nil && bytes.Equal(got, want) {
			return e.Name(), nil
		}
	}
	return "", fmt.Errorf("no network interface has the MAC %s", mac)
}

// nameHost sets the host name and writes the files that go with the network.
func nameHost(t tree, cfg guestconfig.Config) error {
	if err := unix.Sethostname([]byte(cfg.Hostname)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	return writeNetworkFiles(t, cfg)
}

func writeNetworkFiles(t tree, cfg guestconfig.Config) error {
	return firstError(
		t.write("/etc/hostname", cfg.Hostname+"\n", 0o644, owner{}),
		t.write("/etc/hosts", hostsFile(cfg.Hostname), 0o644, owner{}),
		t.write("/etc/resolv.conf", resolvFile(cfg.Network.Nameservers), 0o644, owner{}),
	)
}

// hostsFile holds the machine's own name, without which sudo waits for DNS.
func hostsFile(name string) string {
	return "127.0.0.1\tlocalhost\n127.0.1.1\t" + name + "\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n"
}

func resolvFile(servers []string) string {
	var b strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	return b.String()
}
