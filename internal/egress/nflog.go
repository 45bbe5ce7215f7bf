package egress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Numbers of NFLOG (linux/netfilter/nfnetlink_log.h, nfnetlink.h).
const (
	nflogSubsystem = 4 // NFNL_SUBSYS_ULOG
	nflogPacket    = 0 // NFULNL_MSG_PACKET
	nflogConfig    = 1 // NFULNL_MSG_CONFIG

	nflogPayload = 9  // NFULA_PAYLOAD
	nflogPrefix  = 10 // NFULA_PREFIX

	cfgCommand = 1 // NFULA_CFG_CMD
	cfgMode    = 2 // NFULA_CFG_MODE
	cfgTimeout = 4 // NFULA_CFG_TIMEOUT, hundredths of a second

	cmdBind    = 1 // NFULNL_CFG_CMD_BIND
	copyPacket = 2 // NFULNL_COPY_PACKET

	nlHeader  = 16
	nfHeader  = 4
	nfNetlink = 12 // NETLINK_NETFILTER
	// packetHead is how much of a packet is copied: the headers.
	packetHead = 64
	// nflogBuffer is what the kernel holds for a slow reader.
	nflogBuffer = 1 << 20
)

// OpenLog makes the socket to which the kernel tells the packets that rules log
// to a group. It needs CAP_NET_ADMIN; to read it then needs nothing. A group has
// one reader: that there is another is EBUSY.
func OpenLog(group uint16) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, nfNetlink)
	if err != nil {
		return nil, fmt.Errorf("open the socket of NFLOG: %w", err)
	}
	if err := bindLog(fd, group); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("bind NFLOG group %d: %w", group, err)
	}
	return os.NewFile(uintptr(fd), "nflog"), nil
}

func bindLog(fd int, group uint16) error {
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, nflogBuffer)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}); err != nil {
		return err
	}
	mode := binary.BigEndian.AppendUint32(nil, packetHead)
	for _, attribute := range [][]byte{
		attr(cfgCommand, []byte{cmdBind}),
		attr(cfgMode, append(mode, copyPacket, 0)),
		attr(cfgTimeout, binary.BigEndian.AppendUint32(nil, 20)),
	} {
		if err := configure(fd, group, attribute); err != nil {
			return err
		}
	}
	return nil
}

// attr is a netlink attribute, padded.
func attr(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, align(len(b))-len(b))...)
}

func align(n int) int { return (n + 3) &^ 3 }

// configure sends one order and reads the kernel's answer to it.
func configure(fd int, group uint16, attribute []byte) error {
	b := make([]byte, nlHeader, nlHeader+nfHeader+len(attribute))
	binary.NativeEndian.PutUint32(b[0:], uint32(cap(b)))
	binary.NativeEndian.PutUint16(b[4:], nflogSubsystem<<8|nflogConfig)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b = append(b, unix.AF_UNSPEC, 0)
	b = binary.BigEndian.AppendUint16(b, group)
	b = append(b, attribute...)
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	return acknowledged(fd)
}

// acknowledged waits for NLMSG_ERROR, passing over packets that were logged
// meanwhile. The kernel has answered before the order's call returned.
func acknowledged(fd int) error {
	answer := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, answer, 0)
		if err != nil {
			return err
		}
		if n < nlHeader+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
			continue
		}
		if code := int32(binary.NativeEndian.Uint32(answer[nlHeader:])); code != 0 {
			return unix.Errno(-code)
		}
		return nil
	}
}

// packet is what the kernel refused.
type packet struct {
	from, to netip.Addr
	kind     string // "tcp", "udp", "icmp" or "proto N"
	port     uint16 // of the destination, 0 where there is none
	prefix   string // of the rule
}

var errPacket = errors.New("no message of NFLOG")

// parseLog reads what one read of the socket gave: netlink messages, each with a
// packet that a guest has made. What can't be read is left out.
func parseLog(b []byte) []packet {
	var packets []packet
	for len(b) >= nlHeader {
		length := int(binary.NativeEndian.Uint32(b))
		if length < nlHeader || length > len(b) {
			return packets
		}
		if binary.NativeEndian.Uint16(b[4:]) == nflogSubsystem<<8|nflogPacket {
			if p, err := parseLogged(b[nlHeader:length]); err == nil {
				packets = append(packets, p)
			}
		}
		b = b[min(align(length), len(b)):]
	}
	return packets
}

func parseLogged(b []byte) (packet, error) {
	var p packet
	if len(b) < nfHeader {
		return p, errPacket
	}
	prefix, err := "", errPacket
	for b = b[nfHeader:]; len(b) >= 4; {
		length := int(binary.NativeEndian.Uint16(b))
		if length < 4 || length > len(b) {
			return p, errPacket
		}
		value := b[4:length]
		switch binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER) {
		case nflogPayload:
			p, err = parseIPv4(value)
		case nflogPrefix:
			prefix = strings.TrimRight(string(value), "\x00")
		}
		b = b[min(align(length), len(b)):]
	}
	p.prefix = forPrint(prefix)
	return p, err
}

// parseIPv4 reads the head of a packet (RFC 791, section 3.1).
func parseIPv4(b []byte) (packet, error) {
	const least = 20
	if len(b) < least || b[0]>>4 != 4 {
		return packet{}, errPacket
	}
	head := int(b[0]&0xf) * 4
	if head < least {
		return packet{}, errPacket
	}
	p := packet{from: netip.AddrFrom4([4]byte(b[12:16])), to: netip.AddrFrom4([4]byte(b[16:20]))}
	first := binary.BigEndian.Uint16(b[6:])&0x1fff == 0 // later fragments have no ports
	switch protocol := b[9]; protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP:
		p.kind = map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp"}[protocol]
		if first && len(b) >= head+4 {
			p.port = binary.BigEndian.Uint16(b[head+2:])
		}
	case unix.IPPROTO_ICMP:
		p.kind = "icmp"
	default:
		p.kind = fmt.Sprintf("proto %d", protocol)
	}
	return p, nil
}

// readLog counts what the kernel refused until the socket is closed.
func (c *core) readLog(from io.Reader) error {
	b := make([]byte, 256<<10)
	for {
		n, err := from.Read(b)
		switch {
		case errors.Is(err, unix.ENOBUFS): // packets came faster than they were read
			c.log.Debug("the kernel left out refused packets")
		case errors.Is(err, os.ErrClosed), errors.Is(err, io.EOF):
			return nil
		case err != nil:
			c.log.Warn("read refused packets", "error", err)
			time.Sleep(time.Second) // there is no event for an end of the fault
		}
		for _, p := range parseLog(b[:max(n, 0)]) {
			c.refused(p)
		}
	}
}

// refused counts a packet, with the reason that the rules have for it.
func (c *core) refused(p packet) {
	rules := c.rules.Load()
	g := rules.byAddress[p.from]
	if g == nil {
		return
	}
	c.denials.add(Denial{VM: g.Name, Kind: p.kind, Address: p.to.String(), Port: p.port, Reason: rules.whyKernel(g, p)})
}

func (r *rules) whyKernel(g *guest, p packet) string {
	if v := r.reach(g, "", p.to, p.port); !v.Allowed && !(p.kind == "udp" && g.filtersNames()) {
		return v.Reason
	}
	switch {
	case p.kind == "udp" && p.port == portHTTPS && g.filtersNames():
		return "QUIC is closed: it hides the server's name; clients take TCP instead"
	case g.filtersNames():
		return denied("VM %s has egress mode %s, in which names open TCP alone; ask the host's user to add `allow: [%s]`", g.Name, g.mode, target(p.to, p.port)).Reason
	}
	return "the host's rules refused it"
}
