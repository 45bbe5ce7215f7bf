// Package network makes, finds and removes the links that guests are attached
// to: one bridge a host with the guests' gateway address, and one tap a VM on
// it; and it switches IPv4 forwarding.
//
// What it promises:
//
//   - Everything that it makes carries a mark, and only what carries the mark is
//     ever altered or deleted. The mark is the link's ifalias (`ip link` shows
//     it as "alias"): the Owner string that the caller gives, such as
//     "bield /run/bield", the name of the program and its run directory, so that
//     a person who meets the link knows whose it is.
//   - Ensure functions are idempotent and leave nothing behind when they return
//     an error.
//   - A tap is on its bridge, isolated from all other taps (bridge port
//     isolation) unless both have Peers, marked and without IPv6 before it outlives the call that makes
//     it; a process that is killed halfway leaves no tap.
//   - Where a tap is given the guest's MAC, no frame of a guest changes where the
//     bridge sends what is meant for another.
//   - All of it concerns the network namespace of the calling thread.
//
// Links are read from the kernel each time; the package remembers nothing.
package network
