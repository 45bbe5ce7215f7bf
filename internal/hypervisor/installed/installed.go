// Package installed puts together the VMMs that bield has drivers for, as they
// are found on this host.
package installed

import (
	"os"

	"bield/internal/hypervisor"
	"bield/internal/hypervisor/cloudhypervisor"
	"bield/internal/hypervisor/qemu"
	"bield/internal/spec"
)

// Host is this host. Keep it: drivers know more the older they are. With
// BIELD_TEST_KVM=1 in the environment KVM counts as real: fake programs need none.
// BIELD_TEST_WRITES is a folder that a fake QEMU may write to.
func Host() hypervisor.Host {
	kvm := hypervisor.KVM
	if os.Getenv("BIELD_TEST_KVM") == "1" {
		kvm = func() (bool, string) { return true, "" }
	}
	qemuKVM, qemuAlone, ch := qemu.New("", true), qemu.New("", false), cloudhypervisor.New("")
	if dir := os.Getenv("BIELD_TEST_WRITES"); dir != "" {
		qemuKVM.Writes, qemuAlone.Writes = []string{dir}, []string{dir}
	}
	return hypervisor.Host{
		KVM: kvm,
		Programs: []hypervisor.Program{
			{Kind: spec.HypervisorCloudHypervisor, Driver: ch, Find: ch.Describe},
			{Kind: spec.HypervisorQEMU, Driver: qemuKVM, WithoutKVM: qemuAlone, Find: qemuAlone.Describe},
		},
	}
}
