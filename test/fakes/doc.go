// Package fakes plays the programs that bieldd starts: QEMU or cloud-hypervisor
// with a guest in it, virtiofsd and mmdebstrap. With them every path of CLI, daemon and
// reconciler runs in milliseconds against the real kernel, and what goes wrong
// on a bad day can be had at will.
//
// It promises that a fake needs of bieldd what the real program needs, and so
// fails where that one fails: a VMM its listening sockets by descriptor, a tap,
// an initramfs that it may read, and a virtiofsd behind every share; virtiofsd
// its listener, and a folder that its user may open; the guest its host key
// from the share that holds it, and a guest link of the kind that its
// configuration says. A guest lets in who authorized_keys names, and
// runs their commands in a shell.
//
// cloud-hypervisor is played to the letter, for where nobody has the real one: its
// arguments are refused as clap and its own parser would, the thread that opens and
// makes things is confined by the real Landlock rules, and requests and answers
// that its API's description (testdata/cloud-hypervisor-v53.yaml) does not have end
// it with ContractCode. Plan says which version it is; up to v52 its answers are
// those of that version.
//
// RouteGuests and Settings are the network around them: a namespace of the
// test's own, in which the real bieldd makes real links and rules.
//
// A fake is the test's own binary under the name of the program that it plays
// (see Programs), in a folder of one test:
//
//	QEMU of this machine's architecture, cloud-hypervisor, virtiofsd, mmdebstrap
//	plan.json     what is to go wrong; see Plan. It may be missing
//	net/          mode 1777; IP.sock is where the guest of that address takes
//	              SSH connections, NAME.hangs says that a guest stands still
//
// The folder is found by the program's own path: bieldd passes on no
// environment.
package fakes
