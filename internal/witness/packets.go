package witness

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Packets watches every interface for packets that carry marks.
type Packets struct {
	cookie Cookie
	socket *os.File
	done   chan struct{}

	mu      sync.Mutex
	seen    map[uint32][]string
	changed chan struct{} // closed and replaced with each new one
}

// maxSeen bounds how many attempts are remembered: a guest can number them as
// it likes.
const maxSeen = 1 << 14

// WatchPackets begins to watch.
func WatchPackets(c Cookie) (*Packets, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("watch packets: %w", err)
	}
	p := &Packets{cookie: c, socket: os.NewFile(uintptr(fd), "packets"), done: make(chan struct{}), seen: map[uint32][]string{}, changed: make(chan struct{})}
	if err := errors.Join(filterMarked(fd, c), unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL)})); err != nil {
		_ = p.socket.Close()
		return nil, fmt.Errorf("watch packets: %w", err)
	}
	go p.read()
	return p, nil
}

func networkOrder(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}

// filterMarked keeps all others' packets from being copied: a mark's first word
// stands MarkBytes before a packet's end.
func filterMarked(fd int, c Cookie) error {
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtLen},
		bpf.ALUOpConstant{Op: bpf.ALUOpSub, Val: uint32(MarkBytes)},
		bpf.TAX{},
		bpf.LoadIndirect{Off: 0, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(c[:]), SkipFalse: 1},
		bpf.RetConstant{Val: maxPacket},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

// maxPacket is longer than any of an attempt.
const maxPacket = 4 << 10

func (p *Packets) read() {
	defer close(p.done)
	raw, err := p.socket.SyscallConn()
	if err != nil {
		return
	}
	buffer := make([]byte, maxPacket)
	for {
		var n int
		var from unix.Sockaddr
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			n, from, failed = unix.Recvfrom(int(fd), buffer, 0)
			return !errors.Is(failed, unix.EAGAIN)
		})
		if err != nil {
			return // closed
		}
		link, ok := from.(*unix.SockaddrLinklayer)
		if failed != nil || !ok {
			continue // ENETDOWN of an interface that goes
		}
		if id, marked := p.cookie.attempt(buffer[:n]); marked {
			p.note(id, link.Ifindex)
		}
	}
}

func (p *Packets) note(id uint32, index int) {
	link, err := net.InterfaceByIndex(index)
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.Contains(p.seen[id], link.Name) || len(p.seen) >= maxSeen {
		return
	}
	p.seen[id] = append(p.seen[id], link.Name)
	close(p.changed)
	p.changed = make(chan struct{})
}

// Seen lists, for each attempt, the interfaces that had a packet of its.
func (p *Packets) Seen() map[uint32][]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make(map[uint32][]string, len(p.seen))
	for id, links := range p.seen {
		all[id] = slices.Sorted(slices.Values(links))
	}
	return all
}

// Await returns when a packet of an attempt was on an interface, or with ctx.
func (p *Packets) Await(ctx context.Context, id uint32, link string) error {
	for {
		p.mu.Lock()
		there, changed := slices.Contains(p.seen[id], link), p.changed
		p.mu.Unlock()
		if there {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Close ends the watching.
func (p *Packets) Close() error {
	err := p.socket.Close()
	<-p.done
	return err
}
