package firewall

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"bield/internal/spec"
)

// ifNameBytes is IFNAMSIZ, the size of an interface's name with its end.
const ifNameBytes = 16

// Config is all that the rules are made from.
type Config struct {
	// Owner marks the tables: see the package comment.
	Owner  string
	Bridge string
	// Gateway is the host's address on the bridge, in Subnet.
	Gateway netip.Addr
	// Subnet is the guests' IPv4 network.
	Subnet netip.Prefix
	// ExternalInterface is where guests may go; "" means any but Bridge.
	ExternalInterface string
	// TrustBridge opens the host to guests, HostPorts single ports of it.
	TrustBridge bool
	HostPorts   []spec.HostPort
	// GuestToGuest lets guests reach each other.
	GuestToGuest bool
	// Ports is where the egress process listens; the zero value while there is
	// none, and then what it would serve is refused.
	Ports Ports
	// Nameservers are those that the egress process asks.
	Nameservers []netip.Addr
	// VMs may be in any order.
	VMs []VM
}

// Ports are those of the gateway's address on which the egress process serves
// guests.
type Ports struct {
	DNS    uint16 // UDP
	DNSTCP uint16
	Proxy  uint16 // TCP
}

// VM is one guest's place on the bridge.
type VM struct {
	Tap string
	// MAC is in colon form, "02:00:00:01:b8:4b".
	MAC string
	// IP is the guest's one address, in Subnet.
	IP netip.Addr
	// Egress is where it may go. Names are the egress process's business.
	Egress spec.Egress
}

// guest is a VM in the form that sets hold.
type guest struct {
	tap    string
	mac    net.HardwareAddr
	ip     netip.Addr
	egress spec.Egress
}

// guests checks the configuration and returns its VMs, ordered by tap.
func (c Config) guests() ([]guest, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	var all []guest
	seen := map[string]string{}
	for _, vm := range c.VMs {
		mac, err := c.checkVM(vm)
		if err != nil {
			return nil, fmt.Errorf("firewall: tap %q: %w", vm.Tap, err)
		}
		for _, key := range []string{"tap " + vm.Tap, "MAC " + mac.String(), "address " + vm.IP.String()} {
			if other, taken := seen[key]; taken {
				return nil, fmt.Errorf("firewall: %s is used twice, by taps %s and %s", key, other, vm.Tap)
			}
			seen[key] = vm.Tap
		}
		all = append(all, guest{tap: vm.Tap, mac: mac, ip: vm.IP, egress: vm.Egress})
	}
	slices.SortFunc(all, func(a, b guest) int { return strings.Compare(a.tap, b.tap) })
	return all, nil
}

func (c Config) check() error {
	switch {
	case c.Owner == "":
		return errors.New("firewall: the owner's mark is empty")
	case !c.Subnet.IsValid() || !c.Subnet.Addr().Is4() || c.Subnet.Masked() != c.Subnet:
		return fmt.Errorf("firewall: subnet %s: use an IPv4 network such as 192.168.83.0/24", c.Subnet)
	case !c.Subnet.Contains(c.Gateway):
		return fmt.Errorf("firewall: gateway %s is not in the subnet %s", c.Gateway, c.Subnet)
	case c.Bridge == c.ExternalInterface:
		return fmt.Errorf("firewall: %s cannot be both bridge and external interface", c.Bridge)
	}
	for _, a := range c.Nameservers {
		if !a.Is4() {
			return fmt.Errorf("firewall: name server %s is not IPv4", a)
		}
	}
	if c.ExternalInterface != "" {
		if err := checkInterface(c.ExternalInterface); err != nil {
			return err
		}
	}
	return checkInterface(c.Bridge)
}

func (c Config) checkVM(vm VM) (net.HardwareAddr, error) {
	if err := checkInterface(vm.Tap); err != nil {
		return nil, err
	}
	for _, t := range vm.Egress.Allow {
		if t.Prefix.IsValid() && (!t.Prefix.Addr().Is4() || t.Prefix != t.Prefix.Masked()) {
			return nil, fmt.Errorf("egress: %s is no IPv4 network", t.Prefix)
		}
	}
	mac, err := net.ParseMAC(vm.MAC)
	switch {
	case err != nil || len(mac) != 6 || mac[0]&1 != 0:
		return nil, fmt.Errorf("MAC %q: use six bytes in colon form, not multicast", vm.MAC)
	case vm.Tap == c.Bridge || vm.Tap == c.ExternalInterface:
		return nil, errors.New("the bridge or the external interface has that name")
	case !c.Subnet.Contains(vm.IP) || vm.IP == c.Gateway:
		return nil, fmt.Errorf("address %s: use one of %s that is not the gateway", vm.IP, c.Subnet)
	}
	return mac, nil
}

func checkInterface(name string) error {
	if name == "" || len(name) >= ifNameBytes || strings.ContainsAny(name, "/ \x00") {
		return fmt.Errorf("firewall: interface name %q: use 1 to 15 characters", name)
	}
	return nil
}
