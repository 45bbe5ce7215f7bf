// Package hypervisor is what bield asks of a program that runs a VM: one small
// interface, with a driver for each program below it.
//
// It promises that a driver
//   - starts the VMM as a user of that VM alone, without capabilities and in an
//     empty network namespace; the network reaches it as an open tap;
//   - makes every socket in the VM's run folder itself, so that the VMM needs no
//     folder to write in, and root alone can connect;
//   - never waits for an answer of a VMM longer than its context, or, where that
//     has no end, than a limit of its own;
//   - leaves the VM running when the daemon goes away, and finds it again.
package hypervisor
