// Package preflight is the named checks of the host behind `bield doctor`: what
// bield needs, what is there, and what to do about the difference.
//
// It promises
//   - to change nothing: it makes no file, link or rule, sets nothing, and loads
//     no kernel module; it asks netlink, /proc, /sys and programs for what is;
//   - to end: each check has a time limit, and one that does not answer is said
//     to have none;
//   - to work without a daemon, without a configuration and without root; what
//     cannot be looked at then is skipped with the reason.
//
// What other rooms know (KVM, programs, the daemon) is handed in as functions.
// Of bield's rooms it imports spec, state and process.
package preflight
