// Package installed puts together the VMMs that bield has drivers for, as they
// are found on this host.
package installed

import (
	"bield/internal/hypervisor"
	"bield/internal/hypervisor/cloudhypervisor"
	"bield/internal/hypervisor/qemu"
	"bield/internal/spec"
)

// Host is this host. Keep it: drivers know more the older they are.
func Host() hypervisor.Host {
	qemuKVM, qemuAlone, ch := qemu.New("", true), qemu.New("", false), cloudhypervisor.New("")
	return hypervisor.Host{
		KVM: hypervisor.KVM,
		Programs: []hypervisor.Program{
			{Kind: spec.HypervisorCloudHypervisor, Driver: ch, Find: ch.Describe},
			{Kind: spec.HypervisorQEMU, Driver: qemuKVM, WithoutKVM: qemuAlone, Find: qemuAlone.Describe},
		},
	}
}
