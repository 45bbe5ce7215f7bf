package vsock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Requests of vhost-user.
const (
	getFeatures         = 1
	setMemTable         = 5
	setVringNum         = 8
	setVringAddr        = 9
	setVringBase        = 10
	getVringBase        = 11
	setVringKick        = 12
	setVringCall        = 13
	getProtocolFeatures = 15
	getConfig           = 24
)

const (
	flagVersion = 1
	flagReply   = 1 << 2
	// noFD, beside a ring's number, says that no descriptor comes along.
	noFD = 1 << 8

	featureProtocol = 1 << 30 // VHOST_USER_F_PROTOCOL_FEATURES
	featureVersion1 = 1 << 32 // VIRTIO_F_VERSION_1
	protocolConfig  = 1 << 9  // VHOST_USER_PROTOCOL_F_CONFIG
)

// The rings; the third, of events, is QEMU's own.
const (
	rx = 0 // to the guest
	tx = 1
)

// Device is the vsock device of one VM.
type Device struct {
	cid   uint64
	tasks sync.WaitGroup

	mu      sync.Mutex
	rings   [2]ring
	memory  memory
	pending [][]byte // packets for the guest that had no buffer
	streams map[uint32]*stream
	listens map[uint32]bool // ports of the host on which each connection is taken
	port    uint32          // of the host, the last one used
	changed *sync.Cond
}

// New is a device of a guest with this address. QEMU connects to its backend's
// socket:
//
//	-chardev socket,id=vsock,path=PATH -device vhost-user-vsock-device,chardev=vsock
func New(cid uint64) *Device {
	d := &Device{cid: cid, streams: map[uint32]*stream{}, listens: map[uint32]bool{}, port: 1 << 30}
	d.changed = sync.NewCond(&d.mu)
	return d
}

// Listen lets the guest connect to a port of the host's, once at a time; what it
// sends there is forgotten.
func (d *Device) Listen(port uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.listens[port] = true
}

// ServeQEMU is the device for the one connection of QEMU's, until that ends.
func (d *Device) ServeQEMU(listener *net.UnixListener) error {
	conn, err := listener.AcceptUnix()
	if err != nil {
		return err
	}
	defer d.end()
	defer conn.Close()
	for {
		if err := d.serveMessage(conn); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("vhost-user: %w", err)
		}
	}
}

// end closes what the rings and streams have open and waits for who uses it.
func (d *Device) end() {
	d.mu.Lock()
	for i := range d.rings {
		for _, f := range []*os.File{d.rings[i].kick, d.rings[i].call} {
			if f != nil {
				_ = f.Close()
			}
		}
	}
	for _, s := range d.streams {
		d.drop(s)
	}
	d.mu.Unlock()
	d.tasks.Wait()
}

func (d *Device) serveMessage(conn *net.UnixConn) error {
	header, oob := make([]byte, 12), make([]byte, unix.CmsgSpace(8*4))
	n, oobn, _, _, err := conn.ReadMsgUnix(header, oob)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err == nil && n < len(header) {
		_, err = io.ReadFull(conn, header[n:])
	}
	if err != nil {
		return err
	}
	request := binary.LittleEndian.Uint32(header)
	payload := make([]byte, binary.LittleEndian.Uint32(header[8:]))
	if _, err := io.ReadFull(conn, payload); err != nil {
		return err
	}
	answer, err := d.handle(request, payload, descriptors(oob[:oobn]))
	if err != nil || answer == nil {
		return err
	}
	reply := binary.LittleEndian.AppendUint32(nil, request)
	reply = binary.LittleEndian.AppendUint32(reply, flagVersion|flagReply)
	reply = binary.LittleEndian.AppendUint32(reply, uint32(len(answer)))
	_, err = conn.Write(append(reply, answer...))
	return err
}

func descriptors(oob []byte) []int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 {
		return nil
	}
	fds, _ := unix.ParseUnixRights(&messages[0])
	return fds
}

func (d *Device) handle(request uint32, p []byte, fds []int) (answer []byte, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch request {
	case getFeatures:
		return binary.LittleEndian.AppendUint64(nil, featureProtocol|featureVersion1), nil
	case getProtocolFeatures:
		return binary.LittleEndian.AppendUint64(nil, protocolConfig), nil
	case getConfig:
		answer := append([]byte(nil), p...)
		copy(answer[12:], binary.LittleEndian.AppendUint64(nil, d.cid)) // the only field
		return answer, nil
	case setMemTable:
		return nil, d.setMemory(p, fds)
	case setVringNum, setVringAddr, setVringBase, getVringBase, setVringKick, setVringCall:
		return d.handleRing(request, p, fds)
	}
	return nil, nil
}

func (d *Device) setMemory(p []byte, fds []int) error {
	d.memory = nil
	for i, fd := range fds {
		at := func(field int) uint64 { return binary.LittleEndian.Uint64(p[8+32*i+8*field:]) }
		r, err := mapRegion(fd, at(0), at(1), at(2), at(3))
		if err != nil {
			return err
		}
		d.memory = append(d.memory, r)
	}
	return nil
}

func (d *Device) handleRing(request uint32, p []byte, fds []int) (answer []byte, err error) {
	number := binary.LittleEndian.Uint32(p)
	if number&0xff >= uint32(len(d.rings)) {
		return nil, fmt.Errorf("there is no ring %d", number)
	}
	r := &d.rings[number&0xff]
	switch request {
	case setVringNum:
		r.size = uint16(binary.LittleEndian.Uint32(p[4:]))
	case setVringBase:
		r.next = uint16(binary.LittleEndian.Uint32(p[4:]))
	case getVringBase:
		answer = binary.LittleEndian.AppendUint32(append([]byte(nil), p[:4]...), uint32(r.next))
		r.desc = nil
	case setVringAddr:
		r.memory = d.memory
		err = r.place(p)
	case setVringKick, setVringCall:
		if number&noFD != 0 || len(fds) != 1 {
			return nil, nil
		}
		if err := unix.SetNonblock(fds[0], true); err != nil {
			return nil, err
		}
		f := os.NewFile(uintptr(fds[0]), "eventfd")
		if request == setVringCall {
			r.call = f
			return nil, nil
		}
		r.kick = f
		d.tasks.Go(func() { d.work(r, f) })
	}
	return answer, err
}

func (r *ring) place(p []byte) error {
	size := uint64(r.size)
	for _, part := range []struct {
		to     *[]byte
		offset int
		size   uint64
	}{{&r.desc, 8, descSize * size}, {&r.use, 16, 6 + 8*size}, {&r.avail, 24, 6 + 2*size}} {
		b, err := r.memory.atUser(binary.LittleEndian.Uint64(p[part.offset:]), part.size)
		if err != nil {
			return err
		}
		*part.to = b
	}
	return nil
}

// work looks at a ring whenever the guest says that there is something in it.
func (d *Device) work(r *ring, kick *os.File) {
	for {
		if r == &d.rings[tx] {
			d.receive(r)
		} else {
			d.mu.Lock()
			d.flush()
			d.mu.Unlock()
		}
		if _, err := kick.Read(make([]byte, 8)); err != nil {
			return
		}
	}
}
