// Command bield-init is PID 1 of a guest, from the initramfs, and the service
// `bield-init service` under systemd. It only wires; see internal/guest.
package main
