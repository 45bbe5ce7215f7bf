// Package guestlink is the wire between the host daemon and bield-init: a
// private byte stream (a virtio-serial port with QEMU, else vsock) cut into
// streams that each begin with one JSON line naming what they are for.
//
// The host side is Dial, the guest side is Serve. A session can be begun at
// any moment and from any state of the bytes in between, because either end
// may have died in the middle of a frame:
//
//	host  → maxFrame+12 newlines   (end any frame a dead session left open)
//	host  → "bield-link/1 hello NONCE"    repeated until it is answered
//	guest → "bield-link/1 welcome NONCE"  once
//	host  → "bield-link/1 go NONCE"       once; then both speak yamux
//
// Neither a newline nor the "b" of a handshake line is a valid first byte of a
// yamux header, so that a side which still believes in an old session ends it
// as soon as a new handshake arrives. The host drops all it reads before the
// welcome with its own nonce.
//
// Only the host opens streams. A stream begins with {"kind":…,"body":…}, and
// the guest answers with one line {"error":…} or {"body":…}; what follows is
// the kind's own business: events are one line each, and a kind such as exec
// may go on with raw bytes.
//
// It promises that nothing a peer sends makes memory grow or a call hang
// beyond its context: lines, frames, streams, pings and events are bounded,
// floods are slowed down, and text from a guest holds no control characters.
package guestlink
