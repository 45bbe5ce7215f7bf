package egress

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"bield/internal/spec"
)

// Policy says which guests there are and where each may go. It travels as JSON
// from the daemon to the egress process, which keeps nothing on disk.
type Policy struct {
	// Nameservers are asked in turn, the first that answers counts.
	Nameservers []netip.AddrPort `json:"nameservers"`
	// Gateway is the host's address on the bridge; Subnet the guests' network.
	Gateway netip.Addr   `json:"gateway"`
	Subnet  netip.Prefix `json:"subnet"`
	VMs     []VM         `json:"vms"`
}

// VM is one guest, known by the address that its packets come from. That a
// packet with that address is the VM's the firewall sees to.
type VM struct {
	Name   string      `json:"name"`
	IP     netip.Addr  `json:"ip"`
	Egress spec.Egress `json:"egress"`
}

// Limits of a policy: more is no policy of a host's.
const (
	maxNameservers = 16
	maxVMs         = 4096
)

// Version names the policy: equal policies, and only they, have the same.
func (p Policy) Version() string {
	text, err := json.Marshal(p)
	if err != nil { // netip and strings always marshal
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// Check says what is wrong with a policy, or nil.
func (p Policy) Check() error {
	switch {
	case !p.Gateway.Is4() || !p.Subnet.IsValid() || !p.Subnet.Contains(p.Gateway):
		return fmt.Errorf("gateway %s is not in the subnet %s", p.Gateway, p.Subnet)
	case len(p.Nameservers) > maxNameservers:
		return fmt.Errorf("%d nameservers are more than %d", len(p.Nameservers), maxNameservers)
	case len(p.VMs) > maxVMs:
		return fmt.Errorf("%d VMs are more than %d", len(p.VMs), maxVMs)
	}
	for _, s := range p.Nameservers {
		if !s.IsValid() || s.Port() == 0 {
			return fmt.Errorf("nameserver %s is no address with a port", s)
		}
	}
	return p.checkVMs()
}

func (p Policy) checkVMs() error {
	names, addresses := map[string]bool{}, map[netip.Addr]bool{}
	targets := 0
	for _, v := range p.VMs {
		switch {
		case v.Name == "" || names[v.Name]:
			return fmt.Errorf("VM name %q is empty or twice there", v.Name)
		case !v.IP.Is4() || addresses[v.IP] || v.IP == p.Gateway:
			return fmt.Errorf("address %s of VM %s is none of its own", v.IP, v.Name)
		}
		names[v.Name], addresses[v.IP] = true, true
		targets += len(v.Egress.Names) + len(v.Egress.Allow)
		if err := checkEgress(v.Egress); err != nil {
			return fmt.Errorf("VM %s: %w", v.Name, err)
		}
	}
	if targets > spec.MaxTargetsOfHost {
		return fmt.Errorf("%d targets are more than %d", targets, spec.MaxTargetsOfHost)
	}
	return nil
}

func checkEgress(e spec.Egress) error {
	switch e.Effective() {
	case spec.EgressOpen, spec.EgressPublic, spec.EgressAllowlist, spec.EgressNone:
	default:
		return fmt.Errorf("%q is no mode", e.Mode)
	}
	for _, list := range [][]spec.Target{e.Names, e.Allow} {
		for _, t := range list {
			if problem := spec.TargetProblem(t); problem != "" {
				return errors.New(problem)
			}
		}
	}
	return nil
}
