package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// conn is a guest's connection: where it was meant to go, and what was read
// of it before that was decided.
type conn struct {
	*net.TCPConn
	guest string
	from  netip.Addr
	dst   netip.AddrPort
	// start was read and not passed on yet.
	start []byte
	// name is what opened the place, "" where the address alone did, nil while
	// nothing has.
	name    atomic.Pointer[string]
	onClose func(*conn)
	closed  sync.Once
	err     error
}

// Read gives first what was read to decide.
func (c *conn) Read(b []byte) (int, error) {
	if len(c.start) > 0 {
		n := copy(b, c.start)
		c.start = c.start[n:]
		return n, nil
	}
	return c.TCPConn.Read(b)
}

// WriteTo is Read in bulk.
func (c *conn) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(c.start)
	c.start = c.start[n:]
	if err != nil {
		return int64(n), err
	}
	more, err := c.TCPConn.WriteTo(w)
	return int64(n) + more, err
}

// Close gives the connection's place to others.
func (c *conn) Close() error {
	c.closed.Do(func() {
		c.err = c.TCPConn.Close()
		c.onClose(c)
	})
	return c.err
}

// reset closes the connection so that the guest's program gets an error.
func (c *conn) reset() {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// fill reads until that many bytes are there.
func (c *conn) fill(need int) error {
	for len(c.start) < need {
		more := make([]byte, max(need-len(c.start), 512))
		n, err := c.TCPConn.Read(more)
		c.start = append(c.start, more[:n]...)
		if err != nil && len(c.start) < need {
			return err
		}
	}
	return nil
}

// fillWithin is fill with a limit of time; quiet says that it passed.
func (c *conn) fillWithin(need int, limit time.Duration) (quiet bool, err error) {
	if err := c.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return false, err
	}
	err = c.fill(need)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return true, c.SetReadDeadline(time.Time{})
	}
	return false, errors.Join(err, c.SetReadDeadline(time.Time{}))
}

// originalDst is where a redirected connection was meant to go
// (SO_ORIGINAL_DST of netfilter, linux/netfilter_ipv4.h).
func originalDst(c *net.TCPConn) (netip.AddrPort, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var dst netip.AddrPort
	var failure error
	err = raw.Control(func(fd uintptr) {
		// The option fills a sockaddr_in, which is no longer than this structure.
		var at *unix.IPv6Mreq
		if at, failure = unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, unix.SO_ORIGINAL_DST); failure == nil {
			b := at.Multiaddr
			dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3]))
		}
	})
	if err := errors.Join(err, failure); err != nil {
		return dst, fmt.Errorf("ask where a connection was meant to go: %w", err)
	}
	return dst, nil
}

// splice passes bytes both ways until both have ended. An end on one side is
// passed on, the other goes on; the kernel moves the bytes.
func splice(ctx context.Context, c *conn, server *net.TCPConn) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close(); _ = server.Close() })
	defer stop()
	defer server.Close()
	defer c.Close()
	if len(c.start) > 0 {
		if _, err := server.Write(c.start); err != nil {
			return
		}
		c.start = nil
	}
	var answered sync.WaitGroup
	answered.Go(func() { pass(c.TCPConn, server) })
	pass(server, c.TCPConn)
	answered.Wait()
}

// pass copies one way; where that fails both ends are told at once.
func pass(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		_ = to.SetLinger(0)
		_ = to.Close()
		_ = from.Close()
		return
	}
	_ = to.CloseWrite()
}
