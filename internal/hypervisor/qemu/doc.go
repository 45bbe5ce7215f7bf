// Package qemu runs VMs with QEMU: with KVM where that is real, with TCG
// elsewhere. On x86-64 the machine is microvm, on arm64 virt, which is as bare:
// both have their devices on virtio-mmio, so that a guest looks for no PCI bus
// and needs the same modules.
//
// It promises what package hypervisor does, and that QEMU is confined by its
// own seccomp sandbox and can't start programs or gain privileges.
//
// # Sockets
//
// The driver makes four listening sockets in the VM's run folder and hands them
// over as open descriptors, QMP as 3, the serial line as 4, the guest link as 5 and
// a second QMP, for events alone, as 6; taps follow. QEMU takes one connection at a time on each and goes
// back to listening when it ends, so a restarted daemon connects anew.
//
//	DIR/qmp.sock      QMP, https://www.qemu.org/docs/master/interop/qmp-spec.html
//	DIR/serial.sock   the guest's serial line
//	DIR/link.sock     the virtio-serial port guestconfig.LinkPort
//	DIR/events.sock   QMP
//
// QEMU starts with the guest's CPUs stopped (-S). They run once the serial line is
// connected and the events are heard, so that neither the guest's first words nor
// the reason of an early end are lost.
//
// QMP is spoken one connection a command: nothing has to be kept alive, and no
// event is needed that the end of the process doesn't tell.
//
// # Without KVM
//
// On x86 with ACPI, which the power button needs, the guest's kernel hangs when it
// calibrates the TSC under TCG. It is told the rate instead: under TCG the
// guest's TSC is the host's, whose rate the driver measures. The kernel's own
// start-up tests of its ciphers and the zeroing of every allocation are left out
// there: they are slow without KVM, and the second defends the guest only
// against itself. Leaving out the mitigations for faults of CPUs as well made no
// difference to the boot.
package qemu
