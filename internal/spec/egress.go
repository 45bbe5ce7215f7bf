package spec

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// EgressMode says where a guest may go.
type EgressMode string

// The modes of the option `egress`. In every mode a guest also reaches what its
// Allow lists.
const (
	// EgressOpen is all that the host would route, the LAN as well.
	EgressOpen EgressMode = "open"
	// EgressPublic is the internet: no address of NonPublic and none of the host.
	EgressPublic EgressMode = "public"
	// EgressAllowlist is the public addresses of the names that are listed.
	EgressAllowlist EgressMode = "allowlist"
	// EgressNone is nothing.
	EgressNone EgressMode = "none"
)

// Limits and numbers of what bield keeps of the network for egress.
const (
	// MaxTargets bounds each list of a VM's, MaxTargetsOfHost those of all VMs.
	MaxTargets       = 10_000
	MaxTargetsOfHost = 50_000
	// EgressUID is the host user, and group, of the egress process: see VMMUIDBase.
	EgressUID = ImageUIDBase + 1<<19
	// EgressLogGroup is the NFLOG group that packets which the rules refuse are
	// reported to: a number that others are not likely to use.
	EgressLogGroup = 25193
	// EgressName is the name by which guests reach the gateway's page about egress.
	EgressName = "bield.internal"
	// maxDNSName is the longest name in text (RFC 1035, section 2.3.4).
	maxDNSName = 253
)

// Egress is what a guest reaches.
type Egress struct {
	// Mode "" is EgressPublic: of a VM that an earlier version has started.
	Mode EgressMode `json:"mode"`
	// Names count with EgressAllowlist alone: names, whose public addresses are
	// open; without a port 80 and 443.
	Names []Target `json:"names,omitempty"`
	// Allow counts in every mode: names and networks, also private ones; without a
	// port, any.
	Allow []Target `json:"allow,omitempty"`
}

// Effective is the mode, EgressPublic where none was set.
func (e Egress) Effective() EgressMode {
	if e.Mode == "" {
		return EgressPublic
	}
	return e.Mode
}

// Target is one place that guests may reach: a name or a network, and a port.
type Target struct {
	// Name is in lower case without a final dot; "*.example.org" is every name
	// below example.org, and not itself. It is "" where Prefix is set.
	Name   string       `json:"name,omitempty"`
	Prefix netip.Prefix `json:"prefix,omitzero"` // IPv4, masked
	// Port 0 means that none was given.
	Port uint16 `json:"port,omitempty"`
	// Private says that the name may have a private address although it is in
	// Names: the host's own configuration names it, as a mirror.
	Private bool `json:"private,omitempty"`
	// Preset is the name of the preset that it comes from.
	Preset string `json:"preset,omitempty"`
}

// String is the target as it is written in a file.
func (t Target) String() string {
	host := t.Name
	if t.Prefix.IsValid() {
		host = t.Prefix.String()
		if t.Prefix.IsSingleIP() {
			host = t.Prefix.Addr().String()
		}
	}
	if t.Port == 0 {
		return host
	}
	return host + ":" + strconv.Itoa(int(t.Port))
}

// Wildcard says that the target is all names below one.
func (t Target) Wildcard() bool { return strings.HasPrefix(t.Name, "*.") }

// ParseTarget reads HOST or HOST:PORT, where HOST is a name, *.NAME, an IPv4
// address or network. Its error says what to write.
func ParseTarget(text string) (Target, error) {
	const write = "write a name, *.name, an IPv4 address or network, and with a port :443 behind it"
	host, port, hasPort := strings.Cut(text, ":")
	var t Target
	if hasPort {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
			return t, fmt.Errorf("%.80q has no port between 1 and 65535 behind the colon — %s", text, write)
		}
		t.Port = uint16(n)
	}
	if numeric(host) {
		var err error
		if t.Prefix, err = parseNetwork(host); err != nil {
			return t, err
		}
		return t, nil
	}
	t.Name = strings.ToLower(strings.TrimSuffix(host, "."))
	if problem := dnsNameProblem(strings.TrimPrefix(t.Name, "*.")); problem != "" {
		return t, fmt.Errorf("%.80q %s — %s", text, problem, write)
	}
	if t.Wildcard() && !strings.Contains(t.Name[2:], ".") {
		return t, fmt.Errorf("%q is all of a top-level domain — write a name with two parts, as *.example.org", text)
	}
	return t, nil
}

// numeric says that a host can be no name: names end in no number.
func numeric(host string) bool {
	return host != "" && madeOf(host, digits, digits+"./")
}

func parseNetwork(host string) (netip.Prefix, error) {
	const write = "write an IPv4 address such as 10.0.0.5, or a network such as 10.0.0.0/24"
	if !strings.Contains(host, "/") {
		a, err := netip.ParseAddr(host)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("%.80q is no address — %s", host, write)
		}
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(host)
	switch {
	case err != nil:
		return p, fmt.Errorf("%.80q is no network — %s", host, write)
	case p != p.Masked():
		return p, fmt.Errorf("%s is an address in a network, not a network — write %s", p, p.Masked())
	case p.Bits() == 0:
		return p, fmt.Errorf("%s is every address — write `egress: open`", p)
	}
	return p, nil
}

// dnsNameProblem says why a text is no name of a host in lower case (RFC 1123,
// section 2.1; underscores stand in real names), or is "".
func dnsNameProblem(name string) string {
	if name == "" {
		return "names nothing"
	}
	if len(name) > maxDNSName {
		return fmt.Sprintf("has %d characters, more than a name may", len(name))
	}
	for label := range strings.SplitSeq(name, ".") {
		if len(label) > maxNameBytes || !madeOf(label, lower+digits+"_", lower+digits+"_-") || !endsIn(label, lower+digits+"_") {
			return "is no name of a host"
		}
	}
	return ""
}

// TargetProblem says what is wrong with a target that did not come from
// ParseTarget, or is "".
func TargetProblem(t Target) string {
	again, err := ParseTarget(t.String())
	switch {
	case err != nil:
		return err.Error()
	case again.Name != t.Name || again.Prefix != t.Prefix || again.Port != t.Port:
		return fmt.Sprintf("%.80q is written unusually — write %s", t.String(), again)
	}
	return ""
}

// HostPort is a port of the host's that guests may reach.
type HostPort struct {
	Protocol string `json:"protocol"` // "tcp" or "udp"
	Port     uint16 `json:"port"`
}

// String is the port as it is written in a file.
func (p HostPort) String() string { return p.Protocol + "/" + strconv.Itoa(int(p.Port)) }

// ParseHostPort reads "tcp/8080".
func ParseHostPort(text string) (HostPort, error) {
	protocol, port, _ := strings.Cut(text, "/")
	n, err := strconv.ParseUint(port, 10, 16)
	p := HostPort{Protocol: protocol, Port: uint16(n)}
	if err != nil || n == 0 || protocol != "tcp" && protocol != "udp" || p.String() != text {
		return p, fmt.Errorf("%.80q is no port of the host — write tcp/8080 or udp/5353", text)
	}
	return p, nil
}

// NonPublic lists the IPv4 networks that are not the internet's, in order and
// without overlaps: the IANA's special-purpose registry (RFC 6890 and later),
// with multicast and what is reserved.
func NonPublic() []netip.Prefix {
	texts := []string{
		"0.0.0.0/8",       // this network, RFC 791
		"10.0.0.0/8",      // private, RFC 1918
		"100.64.0.0/10",   // carrier-grade NAT, RFC 6598
		"127.0.0.0/8",     // loopback, RFC 1122
		"169.254.0.0/16",  // link-local, RFC 3927; metadata services
		"172.16.0.0/12",   // private, RFC 1918
		"192.0.0.0/24",    // protocol assignments, RFC 6890
		"192.0.2.0/24",    // documentation, RFC 5737
		"192.88.99.0/24",  // 6to4 relays, RFC 7526
		"192.168.0.0/16",  // private, RFC 1918
		"198.18.0.0/15",   // benchmarks, RFC 2544
		"198.51.100.0/24", // documentation, RFC 5737
		"203.0.113.0/24",  // documentation, RFC 5737
		"224.0.0.0/3",     // multicast, RFC 5771; reserved, RFC 1112; broadcast
	}
	all := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		all[i] = netip.MustParsePrefix(text)
	}
	return all
}

// Public says that an address is the internet's. IPv6 is none of a guest's.
func Public(a netip.Addr) bool {
	a = a.Unmap()
	return a.Is4() && !slices.ContainsFunc(NonPublic(), func(p netip.Prefix) bool { return p.Contains(a) })
}

func (c *checker) checkEgress(at location, e Egress) {
	c.say(at.to("mode"), oneOf(e.Effective(), EgressOpen, EgressPublic, EgressAllowlist, EgressNone))
	for _, list := range []struct {
		name    string
		targets []Target
	}{{"names", e.Names}, {"allow", e.Allow}} {
		at := at.to(list.name)
		if len(list.targets) > MaxTargets {
			c.add(at, "%d targets are too many — keep to %d", len(list.targets), MaxTargets)
			continue
		}
		if c.targets += len(list.targets); c.targets > MaxTargetsOfHost {
			c.add(at, "all VMs together have more than %d targets — list fewer", MaxTargetsOfHost)
			continue
		}
		for _, t := range list.targets {
			c.say(at, c.targetProblem(t, list.name))
		}
	}
}

func (c *checker) targetProblem(t Target, list string) string {
	problem := TargetProblem(t)
	own := t.Prefix
	switch {
	case problem != "":
		return problem
	case list == "names" && own.IsValid():
		return fmt.Sprintf("%s is an address, and names are names — put it into `allow`", t)
	case own.IsValid() && own.Overlaps(netip.MustParsePrefix("127.0.0.0/8")):
		return fmt.Sprintf("%s would be the guest itself — for a port of the host write hostPorts", t)
	case own.IsValid() && c.host.Subnet.IsValid() && own.Overlaps(c.host.Subnet):
		return fmt.Sprintf("%s is in the VMs' own subnet — for other VMs write guestToGuest, for the host hostPorts", t)
	}
	return ""
}

func (c *checker) checkHostPorts() {
	const most = 256
	if len(c.host.HostPorts) > most {
		c.add(location{"hostPorts"}, "%d ports are too many — keep to %d", len(c.host.HostPorts), most)
		return
	}
	for i, p := range c.host.HostPorts {
		if _, err := ParseHostPort(p.String()); err != nil {
			c.say(location{"hostPorts", strconv.Itoa(i)}, err.Error())
		}
	}
}
