package guest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// rtnetlink is the little of rtnetlink(7) that one static IPv4 address needs;
// a library would be a third of this program.
type rtnetlink struct {
	fd  int
	seq uint32
}

func openRtnetlink() (*rtnetlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("bind rtnetlink: %w", err)
	}
	return &rtnetlink{fd: fd}, nil
}

func (r *rtnetlink) close() { _ = unix.Close(r.fd) }

// linkUp sets the interface up.
func (r *rtnetlink) linkUp(index int) error {
	msg := encode(unix.IfInfomsg{Family: unix.AF_UNSPEC, Index: int32(index), Flags: unix.IFF_UP, Change: unix.IFF_UP})
	return r.request(unix.RTM_NEWLINK, 0, msg)
}

// addAddress gives the interface its address, once.
func (r *rtnetlink) addAddress(index int, p netip.Prefix) error {
	msg := encode(unix.IfAddrmsg{Family: unix.AF_INET, Prefixlen: uint8(p.Bits()), Scope: unix.RT_SCOPE_UNIVERSE, Index: uint32(index)})
	ip := p.Addr().AsSlice()
	msg = append(msg, attribute(unix.IFA_LOCAL, ip)...)
	msg = append(msg, attribute(unix.IFA_ADDRESS, ip)...)
	if p.Bits() <= 30 {
		msg = append(msg, attribute(unix.IFA_BROADCAST, broadcast(p).AsSlice())...)
	}
	return r.request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, msg)
}

// addDefaultRoute sends everything else to gateway, which is on the link even
// where the prefix does not say so.
func (r *rtnetlink) addDefaultRoute(index int, gateway netip.Addr) error {
	msg := encode(unix.RtMsg{Family: unix.AF_INET, Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_STATIC,
		Scope: unix.RT_SCOPE_UNIVERSE, Type: unix.RTN_UNICAST, Flags: unix.RTNH_F_ONLINK})
	msg = append(msg, attribute(unix.RTA_GATEWAY, gateway.AsSlice())...)
	msg = append(msg, attribute(unix.RTA_OIF, encode(uint32(index)))...)
	return r.request(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, msg)
}

// broadcast is the prefix's last address.
func broadcast(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	n := binary.BigEndian.Uint32(a[:]) | uint32(uint64(1)<<(32-p.Bits())-1)
	binary.BigEndian.PutUint32(a[:], n)
	return netip.AddrFrom4(a)
}

// request sends one message and waits for the kernel's acknowledgement.
func (r *rtnetlink) request(typ, flags uint16, body []byte) error {
	r.seq++
	head := unix.NlMsghdr{Len: uint32(unix.SizeofNlMsghdr + len(body)), Type: typ,
		Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK | flags, Seq: r.seq}
	if err := unix.Sendto(r.fd, append(encode(head), body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	var buf [8192]byte
	for {
		n, _, err := unix.Recvfrom(r.fd, buf[:], 0)
		if err != nil {
			if isErrno(err, unix.EINTR) {
				continue
			}
			return err
		}
		switch seq, errno, ok := parseAck(buf[:n]); {
		case !ok || seq != r.seq:
		case errno != 0:
			return errno
		default:
			return nil
		}
	}
}

// parseAck reads an NLMSG_ERROR; its code 0 is success.
func parseAck(b []byte) (seq uint32, errno unix.Errno, ok bool) {
	var head unix.NlMsghdr
	r := bytes.NewReader(b)
	var code int32
	if binary.Read(r, binary.NativeEndian, &head) != nil || head.Type != unix.NLMSG_ERROR ||
		binary.Read(r, binary.NativeEndian, &code) != nil {
		return 0, 0, false
	}
	return head.Seq, unix.Errno(-code), true
}

// attribute is one rtattr, padded to four bytes.
func attribute(typ uint16, value []byte) []byte {
	b := encode(unix.RtAttr{Len: uint16(unix.SizeofRtAttr + len(value)), Type: typ})
	b = append(b, value...)
	for len(b)%unix.RTA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// encode writes a fixed-size struct as the kernel lays it out.
func encode(v any) []byte {
	var b bytes.Buffer
	_ = binary.Write(&b, binary.NativeEndian, v) // fails for no fixed-size value
	return b.Bytes()
}
