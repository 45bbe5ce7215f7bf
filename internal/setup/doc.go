// Package setup finds out what a host lacks to run bield, and installs it:
// `bield setup`.
//
// It promises to install from the distribution's own signed archives only, to
// say what it does before it does it, and never to change the host's package
// sources. What Debian's current stable has and the host's release lacks (a
// recent virtiofsd on Debian 12) is unpacked beside bield and used from there.
//
// # On disk
//
//	CACHE/tools/lock                   held while a tool is made
//	CACHE/tools/virtiofsd-VERSION/     packages of Debian 13, unpacked, read-only for others
//
// Of bield's rooms it imports apt and state.
package setup
