package hypervisor

import "bield/internal/process"

// Limits are the resource limits of a VMM: what it never needs, and what would
// harm the host. Its user is its own, so that its processes can be counted.
func Limits(m Machine) process.Limits {
	return process.Limits{
		// QEMU has up to 64 threads that wait for disks, cloud-hypervisor one a queue.
		Processes: uint64(256 + 4*m.VCPU),
		// Guest memory is a file to the kernel. What the VMM prints is the only real
		// one that it can make longer.
		FileSize: uint64(m.MemoryMiB+64) << 20,
		// Each queue of a device, vcpu and share takes a few.
		Files: 8192,
	}
}
