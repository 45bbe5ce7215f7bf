// Package host makes machines for tests: namespaces of a thread's own in which
// the real bieldd, built from the tree with the tag faults, runs against the real
// kernel, and QEMU, virtiofsd and mmdebstrap are the fakes of test/fakes.
//
// It promises that a machine sees nothing of the real one's configuration, that
// packets stay in namespaces that it made, and that what a test leaves behind is
// named: in the machine by Leftovers and End, in the whole test binary by Main.
//
//	main.go       TestMain: builds the programs, makes the outer namespaces
//	host.go       one machine: its files, namespaces, SSH into its guests
//	daemon.go     its bieldd: start, signal, wait
//	leftovers.go  what is there that should not be
//	processes.go  /proc
package host
