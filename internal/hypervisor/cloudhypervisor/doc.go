// Package cloudhypervisor runs VMs with cloud-hypervisor, version 52 or newer, on
// hardware KVM.
//
// It promises what package hypervisor does, and that the VMM's threads are confined
// by its own seccomp filters and Landlock rules (the latter where the kernel has
// Landlock): it can write to no folder but DIR/vmm.
//
// # Files
//
// The driver makes the API's socket and the event pipe in the VM's run folder and
// hands them over as open descriptors 3 and 4; taps follow, a descriptor a queue. The
// sockets of the serial line and of vsock the VMM makes itself, for it takes no open
// ones: in a folder that is its user's own. Who answers there is checked to be that
// user.
//
//	DIR/api.sock         HTTP, vmm/src/api/openapi/cloud-hypervisor.yaml
//	DIR/events.fifo      the event monitor's JSON objects
//	DIR/vmm/serial.sock  the guest's ttyS0 (x86) or ttyAMA0 (arm64)
//	DIR/vmm/link.sock    vsock: "CONNECT <port>\n", the guest link is guestconfig.LinkVsockPort
//
// The API is spoken one connection a request: nothing has to be kept alive. The pipe
// has a name, so that a new daemon reads on, and the VMM holds both of its ends: while
// no daemon reads, events wait, and, when it is full, are lost.
//
// # What its versions differ in
//
// What a request has come to is read from vm.info, not from the status: v52 answers
// 500 where the API's description has 404 or 405, and 200 where it has 204. Until v52
// the serial line's output is lost while nobody is connected; the driver connects
// before the guest runs.
//
// # A guest that resets its machine
//
// cloud-hypervisor boots such a guest anew, in the same process, and that can't be
// switched off. It tells of it before; the driver then ends the VMM, as QEMU ends by
// itself.
package cloudhypervisor
