package spec

import "net/netip"

// DefaultHost is what a file that sets nothing asks for: a host without a VM.
func DefaultHost() Host {
	return Host{
		Bridge:           DefaultBridge,
		Subnet:           netip.MustParsePrefix(DefaultSubnet + ".0/24"),
		StateDir:         DefaultStateDir,
		Nameservers:      DefaultNameservers(),
		MemoryReserveMiB: DefaultMemoryReserveMiB,
		VMs:              []VM{},
	}
}
