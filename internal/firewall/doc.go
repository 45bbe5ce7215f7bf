// Package firewall keeps bield's own nftables tables: `bield` of family inet
// and `bield` of family bridge. Both are rebuilt whole in one transaction, so
// that each packet meets either all of the old rules or all of the new ones.
//
// What the rules promise, with the host's other tables left as they are:
//
//   - Guests reach the outside only through the external interface (any but the
//     bridge where none is named), with its address (masquerade), and there only
//     what their egress mode and their allowed networks say. Rules look at each
//     packet: what is forbidden ends, also in connections that are there.
//   - All that they ask name servers, all TCP of modes that go by names, and TCP
//     to private addresses are redirected to the egress process (Config.Ports).
//     While it is not there, that is refused.
//   - What is refused is refused at once (TCP reset, ICMP) and reported to the
//     NFLOG group spec.EgressLogGroup.
//   - The host takes from guests answers, pings, what was redirected, and
//     HostPorts; with TrustBridge, all.
//   - Nothing is forwarded to the bridge but answers to what came from there.
//   - No packet goes from one guest to another, neither bridged nor by way of
//     the host's routing, unless GuestToGuest; nor from a guest to any other port
//     of the bridge.
//   - A guest's tap takes only frames with that guest's MAC, and in them only
//     IPv4 from its address and ARP that claims both: no IPv6 (and so no router
//     advertisements), no VLAN tags, no DHCP answers. Frames to 802.1D's reserved
//     addresses, which skip part of the bridge, carry no packet to the host.
//   - The egress process itself, should a guest take it over, reaches neither the
//     host nor guests, and nothing private that no name may lead to.
//
// What they do not: whatever else is a port of the bridge is not checked for
// spoofing. An accept here does not overrule a drop in somebody else's table.
//
// A VM must be in the configuration before its tap is used: frames of a tap
// that the rules do not know are not checked.
//
// Owner is the mark of one bield, such as "bield /run/bield"; one network
// namespace has at most one. nftables tables carry no mark that this library
// can read, so each of ours has an empty chain named after Owner's hash. A
// table `bield` without it is somebody else's: it is never touched, and named
// in an error.
package firewall
