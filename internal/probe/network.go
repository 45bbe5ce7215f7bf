package probe

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// connect tries TCP or UDP. What was connected by TCP stays so.
func connect(o Order) (Result, net.Conn) {
	r := Result{ID: o.ID}
	dialer := net.Dialer{Timeout: MaxWait}
	conn, err := dialer.Dial(string(o.Verb), net.JoinHostPort(o.Address, strconv.Itoa(int(o.Port))))
	if err != nil {
		r.Outcome = outcome(err)
		return r, nil
	}
	if local, err := netip.ParseAddrPort(conn.LocalAddr().String()); err == nil {
		r.LocalPort = local.Port()
	}
	if o.Verb == UDP {
		defer conn.Close()
		r.Outcome, r.Data = exchange(conn, o.Data, true)
		return r, nil
	}
	r.Connected = true
	r.Outcome, r.Data = exchange(conn, o.Data, false)
	return r, conn
}

// answerWait is how long an answer may take: less than a person would wait for.
const answerWait = 1500 * time.Millisecond

// exchange sends data and waits for what comes; a datagram is sent twice, as
// one may be lost.
func exchange(conn net.Conn, data []byte, twice bool) (string, []byte) {
	_ = conn.SetDeadline(time.Now().Add(answerWait))
	if len(data) > 0 {
		if _, err := conn.Write(data); err != nil {
			return outcome(err), nil
		}
		if twice {
			_, _ = conn.Write(data)
		}
	}
	answer := make([]byte, 2<<10)
	n, err := conn.Read(answer)
	if err != nil {
		return outcome(err), nil
	}
	return Answered, answer[:n]
}

func sendIP(o Order) error {
	to, err := netip.ParseAddr(o.Address)
	if err != nil || !to.Is4() {
		return unix.EAFNOSUPPORT
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(o.Number))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return errors.Join(unix.Sendto(fd, o.Data, 0, &unix.SockaddrInet4{Addr: to.As4()}),
		unix.Sendto(fd, o.Data, 0, &unix.SockaddrInet4{Addr: to.As4()}))
}

// sendFrame sends a frame twice: one may be lost.
func sendFrame(o Order) error {
	index, err := interfaceOf(o.Address)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	to := &unix.SockaddrLinklayer{Ifindex: index, Halen: 6}
	copy(to.Addr[:], o.Data)
	if err := unix.Sendto(fd, o.Data, 0, to); err != nil {
		return err
	}
	return unix.Sendto(fd, o.Data, 0, to)
}

func interfaceOf(mac string) (int, error) {
	links, err := net.Interfaces()
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(links, func(l net.Interface) bool { return l.HardwareAddr.String() == mac })
	if i < 0 {
		return 0, unix.ENODEV
	}
	return links[i].Index, nil
}

// tryVsock connects to the host's ports one after another: each is answered at
// once, or none is.
func tryVsock(o Order) ([]byte, error) {
	var open []byte
	last := error(unix.ENODEV)
	for port := uint64(1); port <= o.Number; port++ {
		err := connectVsock(uint32(port))
		if err == nil {
			open = fmt.Appendf(open, "%d ", port)
			continue
		}
		last = err
		if !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.ECONNREFUSED) {
			break // there is no such transport, or nobody answers
		}
	}
	if len(open) > 0 {
		return open, nil
	}
	return nil, last
}

func connectVsock(port uint32) error {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// The socket option of vm_sockets.h that bounds connect(2).
	wait := unix.NsecToTimeval(int64(time.Second))
	_ = unix.SetsockoptTimeval(fd, unix.AF_VSOCK, soVMSocketsConnectTimeout, &wait)
	err = unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: port})
	if errors.Is(err, unix.EINTR) { // by the runtime's own signals: once more, on a new socket
		return connectVsock(port)
	}
	return err
}

// soVMSocketsConnectTimeout is SO_VM_SOCKETS_CONNECT_TIMEOUT_OLD
// (linux/vm_sockets.h).
const soVMSocketsConnectTimeout = 6
