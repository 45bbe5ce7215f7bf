package vsock

import (
	"encoding/binary"
	"os"
	"sync/atomic"
	"unsafe"
)

// ring is the device's side of a split virtqueue.
type ring struct {
	memory           memory
	size             uint16
	desc, avail, use []byte
	next             uint16 // of avail, the first that was not looked at
	kick, call       *os.File
}

const (
	descSize  = 16
	flagNext  = 1
	flagWrite = 2
)

// ready says whether QEMU has told all of the ring.
func (r *ring) ready() bool { return r.desc != nil && r.kick != nil && r.size > 0 }

// index is the shared index behind the flags at the start of avail or used.
func index(b []byte) *uint32 { return (*uint32)(unsafe.Pointer(&b[0])) }

// take returns the next chain's number and its buffers, to read and to write.
func (r *ring) take() (head uint16, in, out [][]byte, ok bool) {
	if !r.ready() || uint16(atomic.LoadUint32(index(r.avail))>>16) == r.next {
		return 0, nil, nil, false
	}
	head = binary.LittleEndian.Uint16(r.avail[4+2*int(r.next%r.size):])
	r.next++
	for i, n := head, uint16(0); n < r.size; n++ {
		d := r.desc[descSize*int(i%r.size):]
		b, err := r.memory.at(binary.LittleEndian.Uint64(d), uint64(binary.LittleEndian.Uint32(d[8:])))
		flags := binary.LittleEndian.Uint16(d[12:])
		switch {
		case err != nil:
		case flags&flagWrite != 0:
			out = append(out, b)
		default:
			in = append(in, b)
		}
		if flags&flagNext == 0 {
			break
		}
		i = binary.LittleEndian.Uint16(d[14:])
	}
	return head, in, out, true
}

// give hands a chain back, with so many bytes written into it, and interrupts.
func (r *ring) give(head uint16, written int) {
	used := uint16(atomic.LoadUint32(index(r.use)) >> 16)
	slot := r.use[4+8*int(used%r.size):]
	binary.LittleEndian.PutUint32(slot, uint32(head))
	binary.LittleEndian.PutUint32(slot[4:], uint32(written))
	atomic.StoreUint32(index(r.use), uint32(used+1)<<16)
	if r.call != nil {
		_, _ = r.call.Write(binary.NativeEndian.AppendUint64(nil, 1)) // eventfd(2)
	}
}

// gather joins buffers; scatter fills them and says with how much.
func gather(buffers [][]byte) []byte {
	var all []byte
	for _, b := range buffers {
		all = append(all, b...)
	}
	return all
}

func scatter(buffers [][]byte, data []byte) int {
	n := 0
	for _, b := range buffers {
		n += copy(b, data[n:])
	}
	return n
}
