package witness

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
)

// Cookie marks all of one verification's attempts. It is random, so that a
// packet or a file that carries it is one of them.
type Cookie [16]byte

// MarkBytes is the length of a mark.
const MarkBytes = len(Cookie{}) + 4

// NewCookie makes one.
func NewCookie() (c Cookie) {
	_, _ = rand.Read(c[:]) // it never fails (crypto/rand)
	return c
}

// String is the cookie in names of files.
func (c Cookie) String() string { return hex.EncodeToString(c[:]) }

// Mark is what stands at the very end of the packet of one attempt.
func (c Cookie) Mark(id uint32) []byte {
	return binary.BigEndian.AppendUint32(c[:len(c):len(c)], id)
}

// attempt reads the mark at the end of a packet.
func (c Cookie) attempt(packet []byte) (id uint32, marked bool) {
	if len(packet) < MarkBytes {
		return 0, false
	}
	mark := packet[len(packet)-MarkBytes:]
	return binary.BigEndian.Uint32(mark[len(c):]), Cookie(mark[:len(c)]) == c
}
