package egress

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// askTimeout is how long one name server may take, askAllTimeout all of them.
	askTimeout    = 1500 * time.Millisecond
	askAllTimeout = 5 * time.Second
	// udpSize is the answer asked for: no fragments (DNS flag day 2020).
	udpSize = 1232
	// askRounds is how often each name server is asked.
	askRounds = 2
)

var (
	errNoNameservers = errors.New("the host has no name servers")
	errOtherCase     = errors.New("the name server changed the case of the question")
	errTruncated     = errors.New("the answer was cut short")
)

// upstream asks the host's name servers. Nothing that a guest sent goes out but
// the name and the type: no options, no flags, no id.
type upstream struct {
	// first is the index of the server that answered last.
	first atomic.Uint32
	port  func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error)
}

func newUpstream() *upstream {
	return &upstream{port: func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, to.String())
	}}
}

// ask gives the first answer that any of the servers has.
func (u *upstream) ask(ctx context.Context, servers []netip.AddrPort, name string, kind uint16) (*dns.Msg, error) {
	if len(servers) == 0 {
		return nil, errNoNameservers
	}
	ctx, cancel := context.WithTimeout(ctx, askAllTimeout)
	defer cancel()
	first := int(u.first.Load()) % len(servers)
	var failure error
	for try := range askRounds * len(servers) {
		i := (first + try) % len(servers)
		answer, err := u.askOne(ctx, servers[i], name, kind)
		if err == nil {
			u.first.Store(uint32(i))
			return answer, nil
		}
		failure = err
		if ctx.Err() != nil {
			break
		}
	}
	return nil, failure
}

// askOne asks by UDP, and by TCP where that can't be believed or is too short.
func (u *upstream) askOne(ctx context.Context, server netip.AddrPort, name string, kind uint16) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answer, err := u.exchange(ctx, "udp", server, question(mixCase(name), kind))
	if errors.Is(err, errOtherCase) || errors.Is(err, errTruncated) {
		answer, err = u.exchange(ctx, "tcp", server, question(name, kind))
	}
	if err != nil {
		return nil, fmt.Errorf("name server %s: %w", server, err)
	}
	if answer.Rcode != dns.RcodeSuccess && answer.Rcode != dns.RcodeNameError {
		return nil, fmt.Errorf("name server %s answers %s", server, dns.RcodeToString[answer.Rcode])
	}
	return answer, nil
}

func question(name string, kind uint16) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), kind)
	m.Id = uint16(rand.Uint32())
	m.SetEdns0(udpSize, false)
	return m
}

// mixCase hides bits in the name that a forger would have to guess
// (draft-vixie-dnsext-dns0x20).
func mixCase(name string) string {
	b := []byte(name)
	for i, c := range b {
		if c >= 'a' && c <= 'z' && rand.Uint32()&1 == 0 {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}

// exchange sends one question from a port of its own and waits for the answer
// to it; what else comes is no answer and changes nothing.
func (u *upstream) exchange(ctx context.Context, network string, server netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
	conn, err := u.port(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	wire := &dns.Conn{Conn: conn, UDPSize: udpSize}
	if err := wire.WriteMsg(q); err != nil {
		return nil, err
	}
	for {
		answer, err := wire.ReadMsg()
		if err != nil && isNetError(err) {
			return nil, err
		}
		if err == nil {
			if ok, err := answers(q, answer); ok {
				return answer, err
			}
		}
		if network == "tcp" {
			return nil, errors.New("the answer is to another question")
		}
	}
}

// isNetError tells a connection that failed from a packet that is no message.
func isNetError(err error) bool {
	var op net.Error
	return errors.As(err, &op) || errors.Is(err, net.ErrClosed) || !isDNSError(err)
}

func isDNSError(err error) bool {
	var d *dns.Error
	return errors.As(err, &d)
}

// answers says that a message is the answer to a question, and whether it can be
// used as it is.
func answers(q, a *dns.Msg) (bool, error) {
	if !a.Response || a.Id != q.Id || a.Opcode != dns.OpcodeQuery || len(a.Question) != 1 {
		return false, nil
	}
	asked, got := q.Question[0], a.Question[0]
	switch {
	case got.Qtype != asked.Qtype || got.Qclass != asked.Qclass || !strings.EqualFold(got.Name, asked.Name):
		return false, nil
	case a.Truncated:
		return true, errTruncated
	case got.Name != asked.Name:
		return true, errOtherCase
	}
	return true, nil
}
