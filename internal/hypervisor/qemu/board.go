package qemu

import "fmt"

// board is what depends on the architecture.
type board struct {
	x86 bool
	// program is QEMU's, debian the package that has it there.
	program, debian string
	// machine begins the value of -M.
	machine string
	// emulated is the CPU without KVM.
	emulated string
	// console is the guest's serial line.
	console string
}

// boardFor knows architectures by Go's names.
func boardFor(arch string) (board, error) {
	switch arch {
	case "amd64":
		return board{
			x86: true, program: "qemu-system-x86_64", debian: "qemu-system-x86",
			machine: "microvm,acpi=on,rtc=on", emulated: "max", console: "ttyS0",
		}, nil
	case "arm64":
		return board{
			program: "qemu-system-aarch64", debian: "qemu-system-arm",
			// The host's own interrupt controller with KVM, version 3 without.
			machine: "virt,gic-version=max",
			// QEMU's own way to sign pointers: the architected one is slow to emulate.
			emulated: "max,pauth-impdef=on",
			console:  "ttyAMA0",
		}, nil
	}
	return board{}, fmt.Errorf("bield knows no QEMU for %s", arch)
}
