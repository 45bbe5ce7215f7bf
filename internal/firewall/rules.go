package firewall

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is that of our table in each family.
const tableName = "bield"

// Names of chains and sets, as `nft list ruleset` shows them.
const (
	chainForward   = "forward"
	chainInput     = "input"
	chainSource    = "masquerade"
	chainFrom      = "from_guests"
	chainFromInput = "from_guests_to_host"
	chainTo        = "to_guests"
	chainSteer     = "steer"
	chainEgress    = "egress"
	chainPublic    = "egress_public"
	chainOutput    = "output"
	chainProcess   = "from_egress_process"
	chainRefuse    = "refuse"
	chainPre       = "prerouting"
	chainCheck     = "check_guest"
	chainCheckARP  = "check_arp"
	chainCheckIPv4 = "check_ipv4"
	setTaps        = "taps"
	setMACs        = "tap_mac"
	setAddresses   = "tap_mac_ip"
	setOpen        = "open"
	setPublic      = "public"
	setAllowed     = "allowed"
	setAllowedPort = "allowed_port"
)

// table, chain, rule and set describe what one transaction makes. The same
// types hold what Observe reads back.
type table struct {
	family nftables.TableFamily
	sets   []set
	chains []chain
	// altered is true of no table that we make: it has flags, such as dormant.
	altered bool
}

type chain struct {
	name string
	// base is nil for a chain that is only jumped to.
	base  *base
	rules []rule
	// altered is true of no chain that we make: its policy is not accept.
	altered bool
}

type rule struct {
	exprs []expr.Any
	// why is the comment that `nft list` shows.
	why string
}

type base struct {
	kind     nftables.ChainType
	hook     nftables.ChainHook
	priority nftables.ChainPriority
}

type set struct {
	name string
	// types are concatenated to the key's.
	types []nftables.SetDatatype
	keys  [][]byte
	// ranges says that each key is the first of a range, and ends the last.
	ranges bool
	ends   [][]byte
}

// Priorities, as nft(8) names them: raw (-300), filter (0) and srcnat (100) of
// inet, and dstnat (-100); filter of the bridge family (-200), before br_netfilter (0) shows bridged packets to the IP rules.
const (
	bridgeFilter = nftables.ChainPriority(-200)
	beforeAll    = nftables.ChainPriority(-300)
	filter       = nftables.ChainPriority(0)
	redirection  = nftables.ChainPriority(-100)
	sourceNAT    = nftables.ChainPriority(100)
)

// build makes the whole ruleset of a configuration.
func build(c Config) ([]table, error) {
	guests, err := c.guests()
	if err != nil {
		return nil, err
	}
	return []table{inetTable(c, guests), bridgeTable(c, guests)}, nil
}

func inetTable(c Config, guests []guest) table {
	taps := tapSet(guests)
	return table{
		family: nftables.TableFamilyINet,
		sets:   append([]set{taps}, egressSets(guests)...),
		chains: slices.Concat([]chain{
			{name: marker(c.Owner)},
			{name: chainPre, base: &base{nftables.ChainTypeFilter, unix.NF_INET_PRE_ROUTING, beforeAll}, rules: []rule{
				// LLDP's address: see bridgeTable; no hook of the bridge
				// family sees those frames.
				deny("past the bridge", iifIn(taps)),
			}},
			{name: chainSource, base: &base{nftables.ChainTypeNAT, unix.NF_INET_POST_ROUTING, sourceNAT}, rules: []rule{
				on(ipv4(), oifNot(c.Bridge), oifNot("lo"), toOutside(c), sourceIn(c.Subnet), masquerade()),
			}},
		}, forwardChains(c), egressChains(c), inputChains(c), outputChains(c, guests)),
	}
}

// forwardChains say what passes through the host.
func forwardChains(c Config) []chain {
	answers := ctState(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	outward := ctState(expr.CtStateBitNEW | expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	var among []rule
	if c.GuestToGuest {
		among = []rule{on(iif(c.Bridge), oif(c.Bridge), ipv4(), sourceIn(c.Subnet), destinationIn(c.Subnet), accept())}
	}
	return []chain{
		{name: chainForward, base: &base{nftables.ChainTypeFilter, unix.NF_INET_FORWARD, filter}, rules: append(among,
			on(iif(c.Bridge), goTo(chainFrom)),
			on(oif(c.Bridge), goTo(chainTo)),
		)},
		{name: chainFrom, rules: []rule{
			// By way of the host's routing, or shown by br_netfilter.
			deny("guest to guest", oif(c.Bridge)),
			on(ipv4(), toOutside(c), sourceIn(c.Subnet), outward, goTo(chainEgress)),
			deny("not to the outside"),
		}},
		{name: chainTo, rules: []rule{
			on(ipv4(), fromOutside(c), answers, accept()),
			deny("nothing gets in"),
		}},
	}
}

// toOutside and fromOutside match nothing more where any interface but the
// bridge will do: the rules that they are in see no packet to, or from, the
// bridge.
func toOutside(c Config) cond {
	if c.ExternalInterface == "" {
		return nil
	}
	return oif(c.ExternalInterface)
}

func fromOutside(c Config) cond {
	if c.ExternalInterface == "" {
		return nil
	}
	return iif(c.ExternalInterface)
}

func bridgeTable(c Config, guests []guest) table {
	taps, macs, addresses := tapSet(guests), macSet(guests), addressSet(guests)
	var among []rule
	if c.GuestToGuest {
		among = []rule{on(iifIn(taps), oifIn(taps), accept())}
	}
	return table{
		family: nftables.TableFamilyBridge,
		sets:   []set{taps, macs, addresses},
		chains: append([]chain{
			{name: marker(c.Owner)},
			{name: chainPre, base: &base{nftables.ChainTypeFilter, unix.NF_INET_PRE_ROUTING, bridgeFilter}, rules: []rule{
				on(iifIn(taps), goTo(chainCheck)),
			}},
			{name: chainInput, base: &base{nftables.ChainTypeFilter, unix.NF_INET_LOCAL_IN, bridgeFilter}, rules: []rule{
				// Frames to such addresses skip prerouting, and the host
				// takes the packets in them as received on the tap itself.
				deny("link-local control frame", iifIn(taps), toLinkLocal()),
			}},
			{name: chainForward, base: &base{nftables.ChainTypeFilter, unix.NF_INET_FORWARD, bridgeFilter}, rules: append(among,
				deny("guest to another port", iifIn(taps)),
				deny("another port to guest", oifIn(taps)),
			)},
		}, checkChains(macs, addresses)...),
	}
}

// checkChains hold a frame of a tap against what its VM may send.
func checkChains(macs, addresses set) []chain {
	name := meta(expr.MetaKeyIIFNAME)
	sender := payload(expr.PayloadBaseLLHeader, regMAC, etherSource, macBytes)
	return []chain{
		{name: chainCheck, rules: []rule{
			deny("spoofed MAC", notIn(macs, name, sender)),
			on(etherIs(unix.ETH_P_IP), goTo(chainCheckIPv4)),
			on(etherIs(unix.ETH_P_ARP), goTo(chainCheckARP)),
			deny("neither IPv4 nor ARP"),
		}},
		{name: chainCheckARP, rules: []rule{
			deny("ARP not for IPv4", notARPForIPv4()),
			deny("spoofed ARP", notIn(addresses, name,
				payload(expr.PayloadBaseNetworkHeader, regMAC, arpSenderMAC, macBytes),
				payload(expr.PayloadBaseNetworkHeader, regIPv4, arpSenderIP, ipBytes))),
		}},
		{name: chainCheckIPv4, rules: []rule{
			deny("spoofed address", notIn(addresses, name, sender,
				payload(expr.PayloadBaseNetworkHeader, regIPv4, ipSource, ipBytes))),
			deny("DHCP server", udpFrom(dhcpServer)),
		}},
	}
}

func tapSet(guests []guest) set {
	s := set{name: setTaps, types: []nftables.SetDatatype{nftables.TypeIFName}}
	for _, g := range guests {
		s.keys = append(s.keys, ifName(g.tap))
	}
	return s
}

func macSet(guests []guest) set {
	s := set{name: setMACs, types: []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeEtherAddr}}
	for _, g := range guests {
		s.keys = append(s.keys, slices.Concat(ifName(g.tap), padMAC(g)))
	}
	return s
}

func addressSet(guests []guest) set {
	s := set{name: setAddresses, types: []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr}}
	for _, g := range guests {
		s.keys = append(s.keys, slices.Concat(ifName(g.tap), padMAC(g), g.ip.AsSlice()))
	}
	return s
}

// padMAC fills the second of the two registers that a MAC address takes.
func padMAC(g guest) []byte {
	return slices.Concat(g.mac, []byte{0, 0})
}

// marker is the name of the empty chain by which a table is known as ours.
func marker(owner string) string {
	sum := sha256.Sum256([]byte(owner))
	return "owner_" + hex.EncodeToString(sum[:8])
}
