// Package vsock gives a guest under QEMU the vsock device that it would have
// under cloud-hypervisor: the host reaches a port of the guest over a unix socket
// on which it first says "CONNECT PORT\n" and reads "OK HOSTPORT\n". QEMU's own
// vsock devices need the host kernel's; here the device is this process.
//
//	backend.go  vhost-user, https://www.qemu.org/docs/master/interop/vhost-user.html
//	memory.go   the guest's memory
//	ring.go     split virtqueues, virtio 1.2 section 2.7
//	stream.go   the socket device, virtio 1.2 section 5.10
//	hybrid.go   the unix socket
//
// It is for tests: it trusts the guest, and ends with the VM.
package vsock
