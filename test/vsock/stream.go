package vsock

import (
	"encoding/binary"
	"io"
	"net"
)

// Operations of the socket device.
const (
	opRequest       = 1
	opResponse      = 2
	opReset         = 3
	opShutdown      = 4
	opData          = 5
	opCreditUpdate  = 6
	opCreditRequest = 7
)

const (
	headerSize = 44
	hostCID    = 2
	typeStream = 1
	// shutdownBoth says that nothing is sent or received any more.
	shutdownBoth = 3
	// ourBuffer is what the guest may have under way to the host.
	ourBuffer = 256 << 10
	// chunk fits into the guest's buffers, which newer kernels have smaller than a page.
	chunk = 2048
)

// packet is the header and the data of one packet.
type packet struct {
	srcPort, dstPort  uint32
	op                uint16
	flags             uint32
	bufAlloc, forward uint32
	data              []byte
}

func (p packet) bytes(src, dst uint64) []byte {
	b := binary.LittleEndian.AppendUint64(nil, src)
	b = binary.LittleEndian.AppendUint64(b, dst)
	b = binary.LittleEndian.AppendUint32(b, p.srcPort)
	b = binary.LittleEndian.AppendUint32(b, p.dstPort)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(p.data)))
	b = binary.LittleEndian.AppendUint16(b, typeStream)
	b = binary.LittleEndian.AppendUint16(b, p.op)
	b = binary.LittleEndian.AppendUint32(b, p.flags)
	b = binary.LittleEndian.AppendUint32(b, p.bufAlloc)
	b = binary.LittleEndian.AppendUint32(b, p.forward)
	return append(b, p.data...)
}

func parsePacket(b []byte) (packet, bool) {
	if len(b) < headerSize {
		return packet{}, false
	}
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	return packet{
		srcPort: u32(16), dstPort: u32(20), op: binary.LittleEndian.Uint16(b[30:]), flags: u32(32),
		bufAlloc: u32(36), forward: u32(40), data: b[headerSize:min(len(b), headerSize+int(u32(24)))],
	}, true
}

// stream is a connection of the host's to a port of the guest.
type stream struct {
	conn      net.Conn
	host      uint32 // ports
	guest     uint32
	connected chan bool // closed or false: refused
	// Bytes that were sent; what the guest has room for and has taken of them.
	sent, room, taken uint32
	// received is what the host has taken.
	received uint32
	gone     bool
}

// send puts a packet of the stream on its way. Needs d.mu.
func (d *Device) send(s *stream, op uint16, flags uint32, data []byte) {
	p := packet{srcPort: s.host, dstPort: s.guest, op: op, flags: flags, bufAlloc: ourBuffer, forward: s.received, data: data}
	d.pending = append(d.pending, p.bytes(hostCID, d.cid))
	d.flush()
}

// flush fills the guest's buffers with what is on its way. Needs d.mu.
func (d *Device) flush() {
	for len(d.pending) > 0 {
		head, _, out, ok := d.rings[rx].take()
		if !ok {
			return
		}
		d.rings[rx].give(head, scatter(out, d.pending[0]))
		d.pending = d.pending[1:]
	}
}

// receive takes all that the guest has sent.
func (d *Device) receive(r *ring) {
	for {
		d.mu.Lock()
		head, in, _, ok := r.take()
		if !ok {
			d.mu.Unlock()
			return
		}
		p, whole := parsePacket(gather(in))
		r.give(head, 0)
		if whole {
			d.serve(p)
		}
		d.mu.Unlock()
	}
}

// serve answers one packet of the guest's. Needs d.mu.
func (d *Device) serve(p packet) {
	s := d.streams[p.dstPort]
	if s == nil && p.op == opRequest && d.listens[p.dstPort] {
		d.take(p)
		return
	}
	if s == nil || s.guest != p.srcPort {
		if p.op != opReset { // nobody on the host listens
			d.send(&stream{host: p.dstPort, guest: p.srcPort}, opReset, 0, nil)
		}
		return
	}
	s.room, s.taken = p.bufAlloc, p.forward
	d.changed.Broadcast()
	switch p.op {
	case opResponse:
		s.connected <- true
	case opReset:
		d.drop(s)
	case opShutdown:
		if p.flags&shutdownBoth == shutdownBoth {
			d.send(s, opReset, 0, nil)
			d.drop(s)
		}
	case opData:
		_, _ = s.conn.Write(p.data)
		s.received += uint32(len(p.data))
		d.send(s, opCreditUpdate, 0, nil)
	case opCreditRequest:
		d.send(s, opCreditUpdate, 0, nil)
	}
}

// take answers a connection of the guest's. Needs d.mu.
func (d *Device) take(p packet) {
	ours, theirs := net.Pipe()
	go func() {
		_, _ = io.Copy(io.Discard, theirs)
		_ = theirs.Close()
	}()
	s := &stream{conn: ours, host: p.dstPort, guest: p.srcPort, connected: make(chan bool, 1), room: p.bufAlloc}
	d.streams[s.host] = s
	d.send(s, opResponse, 0, nil)
}

// drop forgets a stream. Needs d.mu.
func (d *Device) drop(s *stream) {
	if s.gone {
		return
	}
	s.gone = true
	delete(d.streams, s.host)
	_ = s.conn.Close()
	close(s.connected)
	d.changed.Broadcast()
}
