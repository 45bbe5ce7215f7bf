package network

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Settings below /proc/sys/net are those of the reading thread's namespace.
// Documentation/networking/ip-sysctl.rst of the kernel describes them.
const (
	ipForward = "/proc/sys/net/ipv4/ip_forward"
	ipv4Conf  = "/proc/sys/net/ipv4/conf/"
	ipv6Conf  = "/proc/sys/net/ipv6/conf/"
)

// Forwarding tells whether the kernel forwards IPv4 packets between interfaces.
func Forwarding() (bool, error) {
	value, err := os.ReadFile(ipForward)
	if err != nil {
		return false, fmt.Errorf("read IPv4 forwarding: %w", err)
	}
	return string(bytes.TrimSpace(value)) != "0", nil
}

// SetForwarding switches IPv4 forwarding for the whole network namespace. The
// caller keeps what Forwarding said before, and restores it.
func SetForwarding(on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	if err := setSysctl(ipForward, value); err != nil {
		return fmt.Errorf("set IPv4 forwarding to %s: %w", value, advise(err))
	}
	return nil
}

// setSysctl writes only what differs, so that a read-only /proc/sys that holds
// the right value does.
func setSysctl(path, value string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if string(bytes.TrimSpace(old)) == value {
		return nil
	}
	return os.WriteFile(path, []byte(value+"\n"), 0)
}

// disableIPv6 takes IPv6 from an interface. Where the folder is missing the
// kernel has no IPv6, or none on this interface.
func disableIPv6(name string) error {
	err := setSysctl(ipv6Conf+name+"/disable_ipv6", "1")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// hardenIPv4 keeps guests from steering the host through the bridge: no routes
// by ICMP redirect or source routing, nothing of 127.0.0.0/8, no answers in the
// name of other machines.
func hardenIPv4(name string) error {
	for _, key := range []string{"accept_redirects", "accept_source_route", "route_localnet", "proxy_arp"} {
		if err := setSysctl(ipv4Conf+name+"/"+key, "0"); err != nil {
			return err
		}
	}
	return nil
}
