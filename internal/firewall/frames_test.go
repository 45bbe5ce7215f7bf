package firewall

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// patience bounds every wait for something that is to happen.
const patience = 5 * time.Second

func parseMAC(s string) net.HardwareAddr {
	mac, err := net.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return mac
}

func ethernet(dst, src net.HardwareAddr, kind uint16, payload []byte) []byte {
	f := append(append([]byte(nil), dst...), src...)
	f = binary.BigEndian.AppendUint16(f, kind)
	return append(f, payload...)
}

func udp4(src, dst string, sport, dport uint16, data string) []byte {
	p := make([]byte, 28, 28+len(data))
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(p[2:], uint16(28+len(data)))
	copy(p[12:], net.ParseIP(src).To4())
	copy(p[16:], net.ParseIP(dst).To4())
	binary.BigEndian.PutUint16(p[10:], checksum(p[:20]))
	binary.BigEndian.PutUint16(p[20:], sport)
	binary.BigEndian.PutUint16(p[22:], dport)
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(data)))
	return append(p, data...)
}

// checksum is the one's complement sum of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func arp(op byte, mac net.HardwareAddr, ip, target string, data string) []byte {
	p := []byte{0, 1, 8, 0, 6, 4, 0, op}
	p = append(append(p, mac...), net.ParseIP(ip).To4()...)
	p = append(append(p, make([]byte, 6)...), net.ParseIP(target).To4()...)
	return append(p, data...)
}

// routerAdvertisement is an ICMPv6 message of type 134 (RFC 4861) to all nodes.
func routerAdvertisement(data string) []byte {
	body := append([]byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}, data...)
	p := make([]byte, 40, 40+len(body))
	p[0], p[6], p[7] = 0x60, unix.IPPROTO_ICMPV6, 255
	binary.BigEndian.PutUint16(p[4:], uint16(len(body)))
	copy(p[8:], net.ParseIP("fe80::1"))
	copy(p[24:], net.ParseIP("ff02::1"))
	return append(p, body...)
}

// packetSocket sees whole frames of one interface of the thread's namespace.
func packetSocket(name string) (int, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return -1, err
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // network byte order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// packets is the lab's packet socket on an interface in a namespace (nil: the host).
func (l *lab) packets(in *space, name string) int {
	key := name
	if in != nil {
		key = in.String()
	}
	if fd, open := l.sockets[key]; open {
		return fd
	}
	fd := -1
	open := func() (err error) {
		fd, err = packetSocket(name)
		return err
	}
	if in == nil {
		must(l.t, open())
	} else {
		in.do(l.t, open)
	}
	l.t.Cleanup(func() { unix.Close(fd) })
	l.sockets[key] = fd
	return fd
}

// drain forgets what came before.
func drain(t *testing.T, fd int) {
	t.Helper()
	for {
		_, _, err := unix.Recvfrom(fd, make([]byte, 1), unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		must(t, err)
	}
}

// arrived reads what has come so far and looks for the mark, waiting at most so long for each frame.
func arrived(t *testing.T, fd int, mark string, wait time.Duration) bool {
	t.Helper()
	buf := make([]byte, 4096)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(wait.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		must(t, err)
		if n == 0 {
			return false
		}
		n, from, err := unix.Recvfrom(fd, buf, 0)
		must(t, err)
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if bytes.Contains(buf[:n], []byte(mark)) {
			return true
		}
	}
}

// dropped sums what the deny rules of a chain have counted.
func dropped(t *testing.T, owner, family, chain string) uint64 {
	t.Helper()
	state, err := Observe(t.Context(), owner)
	must(t, err)
	var sum uint64
	for _, table := range state.tables {
		for _, c := range table.chains {
			if c.name == chain && familyName(table) == family {
				sum += counted(c)
			}
		}
	}
	return sum
}

func counted(c chain) uint64 {
	var sum uint64
	for _, r := range c.rules {
		for _, e := range r.exprs {
			if counter, ok := e.(*expr.Counter); ok {
				sum += counter.Packets
			}
		}
	}
	return sum
}

func familyName(t table) string { return family(t.family) }
