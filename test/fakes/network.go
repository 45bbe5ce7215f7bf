package fakes

import (
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// subnets are the one that a host has by default, and another to move to.
func subnets() []string { return []string{"192.168.83.0/24", "192.168.84.0/24"} }

// RouteGuests makes every address of the guests one of the calling thread's
// own network namespace, so that who listens there speaks for them. It does so
// by a route of the local table: an address on an interface, or a route of the
// main table, would be in the bridge's way.
func RouteGuests() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	for _, text := range subnets() {
		_, subnet, err := net.ParseCIDR(text)
		if err != nil {
			return err
		}
		err = netlink.RouteAdd(&netlink.Route{
			LinkIndex: lo.Attrs().Index, Dst: subnet, Table: unix.RT_TABLE_LOCAL,
			Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Settings is what bield may change in the calling thread's network namespace,
// to be compared with what it was: links, nftables tables, forwarding.
func Settings() (map[string]string, error) {
	found := map[string]string{}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		found["link "+link.Attrs().Name] = link.Type()
	}
	nft, err := nftables.New()
	if err != nil {
		return nil, err
	}
	tables, err := nft.ListTables()
	if err != nil {
		return nil, err
	}
	for _, table := range tables {
		found[fmt.Sprintf("table %s of family %d", table.Name, table.Family)] = "there"
	}
	forward, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	found["ip_forward"] = strings.TrimSpace(string(forward))
	return found, err
}
