package network

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Bridge is the link that all guests of a host are attached to.
type Bridge struct {
	Name string
	// Address is the gateway with the subnet's bits, 192.168.83.1/24; IPv4.
	Address netip.Prefix
	// Owner marks the bridge as made by us: see the package comment.
	Owner string
}

func (b Bridge) check() error {
	if err := errors.Join(checkName(b.Name), checkOwner(b.Owner)); err != nil {
		return err
	}
	a := b.Address
	if !a.IsValid() || !a.Addr().Is4() || a.Bits() < 8 || a.Bits() > 30 || a.Masked().Addr() == a.Addr() {
		return fmt.Errorf("bridge %s: address %s: use an IPv4 host address with 8 to 30 bits, such as 192.168.83.1/24", b.Name, a)
	}
	return nil
}

// EnsureBridge makes the bridge, or completes one that carries our mark, so
// that it is up, has Address as its only IPv4 address, no IPv6, no spanning
// tree and no forward delay. made says that it was this call that made it.
//
// A bridge without our mark is used as it is if it has Address and is up.
// Errors name what is in the way: any other link of that name, or an interface
// whose address or route overlaps the subnet of a bridge that is to be made.
func EnsureBridge(ctx context.Context, b Bridge) (made bool, err error) {
	if err := errors.Join(ctx.Err(), b.check()); err != nil {
		return false, err
	}
	link, err := find(b.Name)
	switch {
	case err != nil:
		return false, err
	case link == nil:
		return b.make()
	case link.Type() != "bridge":
		return false, fmt.Errorf("bridge %s: an interface of that name exists and is no bridge but a %s: remove it, or name another bridge in the configuration", b.Name, link.Type())
	case b.owns(link):
		return false, b.complete(link)
	default:
		return false, b.checkForeign(link)
	}
}

// RemoveBridge deletes the bridge if it carries our mark. A missing bridge, or
// one that is not ours, is no error.
func RemoveBridge(ctx context.Context, b Bridge) error {
	if err := errors.Join(ctx.Err(), checkName(b.Name), checkOwner(b.Owner)); err != nil {
		return err
	}
	link, err := find(b.Name)
	if err != nil || link == nil || !b.owns(link) {
		return err
	}
	return removeLink(link)
}

// owns tells whether the bridge is ours: by its alias, or, where the process
// that made it was killed before the alias was there, by its hardware address.
func (b Bridge) owns(link netlink.Link) bool {
	a := link.Attrs()
	if link.Type() != "bridge" {
		return false
	}
	return a.Alias == b.Owner || a.Alias == "" && slices.Equal(a.HardwareAddr, b.hardwareAddr())
}

// hardwareAddr is the bridge's fixed MAC address, locally administered and
// unlike a guest's. Without one the bridge would change its address with each
// tap that joins or leaves, and guests would lose their gateway.
func (b Bridge) hardwareAddr() net.HardwareAddr {
	sum := sha256.Sum256([]byte(b.Owner + "\x00" + b.Name))
	return append(net.HardwareAddr{0x0a}, sum[:5]...)
}

func (b Bridge) make() (bool, error) {
	if err := b.checkOverlap(); err != nil {
		return false, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = b.Name, b.hardwareAddr()
	link := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(link); err != nil {
		return false, fmt.Errorf("create bridge %s: %w", b.Name, advise(err))
	}
	if err := b.complete(link); err != nil {
		return false, errors.Join(err, removeLink(link))
	}
	return true, nil
}

func (b Bridge) complete(link netlink.Link) error {
	steps := []struct {
		what string
		do   func() error
	}{
		{"mark", func() error { return netlink.LinkSetAlias(link, b.Owner) }},
		{"fix the hardware address of", func() error { return netlink.LinkSetHardwareAddr(link, b.hardwareAddr()) }},
		{"switch off spanning tree on", func() error { return setBridgeOption(link, nl.IFLA_BR_STP_STATE, nl.Uint32Attr(0)) }},
		{"remove the forward delay of", func() error { return setBridgeOption(link, nl.IFLA_BR_FORWARD_DELAY, nl.Uint32Attr(0)) }},
		{"keep link-local frames from teaching", func() error { return setBridgeOption(link, bridgeMultiBoolopt, noLinkLocalLearning()) }},
		{"switch off IPv6 on", func() error { return disableIPv6(b.Name) }},
		{"harden", func() error { return hardenIPv4(b.Name) }},
		{"give " + b.Address.String() + " to", func() error { return b.setAddress(link) }},
		{"bring up", func() error { return netlink.LinkSetUp(link) }},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("%s bridge %s: %w", s.what, b.Name, advise(err))
		}
	}
	return nil
}

// setAddress removes other addresses first: where ours would share a subnet
// with an older one, deleting that one would take ours with it.
func (b Bridge) setAddress(link netlink.Link) error {
	addrs, err := ipv4Addresses(link)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok && p == b.Address {
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove %s: %w", a.IPNet, err)
		}
	}
	return netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(b.Address)})
}

// checkForeign decides whether a bridge that somebody else made can be used.
func (b Bridge) checkForeign(link netlink.Link) error {
	addrs, err := ipv4Addresses(link)
	if err != nil {
		return err
	}
	var has []string
	fits := false
	for _, a := range addrs {
		p, ok := prefixOf(a.IPNet)
		fits = fits || ok && p == b.Address
		has = append(has, a.IPNet.String())
	}
	switch {
	case !fits:
		return fmt.Errorf("bridge %s exists, is not bield's (its alias is %q) and has not the address %s (it has %q): give it that address, set `subnet` to fit, or name another bridge in the configuration", b.Name, link.Attrs().Alias, b.Address, has)
	case link.Attrs().Flags&net.FlagUp == 0:
		return fmt.Errorf("bridge %s exists, is not bield's and is down: bring it up with `ip link set dev %s up`", b.Name, b.Name)
	}
	return nil
}

// bridgeMultiBoolopt is IFLA_BR_MULTI_BOOLOPT of linux/if_link.h.
const bridgeMultiBoolopt = 46

// noLinkLocalLearning is a struct br_boolopt_multi (linux/if_bridge.h) that sets
// BR_BOOLOPT_NO_LL_LEARN, bit 0: without it a guest could say in an LLDP frame,
// which no filter of the bridge family sees, that another guest's MAC is its own.
func noLinkLocalLearning() []byte {
	const bit = 1
	return append(nl.Uint32Attr(bit), nl.Uint32Attr(bit)...)
}

// setBridgeOption sets one IFLA_BR_* attribute of a bridge; netlink's own
// bridge type has none of those that we rely on, and sysfs shows the namespace
// that mounted it, not ours.
func setBridgeOption(link netlink.Link, attr int, value []byte) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(link.Attrs().Index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(attr, value)
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
