package egress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Limits of the proxy.
const (
	// maxConns bounds all connections, maxConnsVM those of one VM; Serve lowers
	// the first to what the limit of descriptors allows.
	maxConns, maxConnsVM = 8192, 1024
	// helloTimeout is how long a client may take to say where it goes.
	helloTimeout = 10 * time.Second
	// quietTimeout is how long a client may be silent before its server is asked
	// to speak first.
	quietTimeout = 300 * time.Millisecond
	dialTimeout  = 20 * time.Second
	// alertTimeout is how long a guest may take to read why it was refused.
	alertTimeout = 2 * time.Second
)

// proxy takes connections that the firewall redirected.
type proxy struct {
	*core
	places *slots
	web    *web
	mu     sync.Mutex
	conns  map[*conn]struct{}
}

func newProxy(c *core, most int) *proxy {
	p := &proxy{core: c, places: newSlots(most, maxConnsVM), conns: map[*conn]struct{}{}}
	p.web = newWeb(p)
	return p
}

// serve takes connections until ctx ends.
func (p *proxy) serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var under sync.WaitGroup
	under.Go(p.web.serve)
	defer under.Wait()
	defer p.cut(func(*conn) bool { return false })
	defer p.web.close()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if pause := p.afterAccept(err); pause != nil {
				return pause
			}
			continue
		}
		if taken := p.take(c.(*net.TCPConn)); taken != nil {
			under.Go(func() { p.handle(ctx, taken) })
		}
	}
}

// afterAccept gives the error that ends the proxy, or nil where it goes on: a
// guest may have gone, or all descriptors be in use.
func (p *proxy) afterAccept(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return err
	}
	p.log.Warn("a connection was not taken", "error", err)
	time.Sleep(10 * time.Millisecond) // there is no event for a free descriptor
	return nil
}

// take makes a connection of a guest's one of the proxy's, or ends it.
func (p *proxy) take(tcp *net.TCPConn) *conn {
	c := &conn{TCPConn: tcp, from: addressOf(tcp.RemoteAddr()).Addr(), onClose: func(*conn) {}}
	g := p.rules.Load().byAddress[c.from]
	if g == nil {
		c.reset()
		return nil
	}
	c.guest = g.Name
	dst, err := originalDst(tcp)
	if err != nil {
		c.reset()
		return nil
	}
	c.dst = dst
	if !p.places.take(g.Name) {
		p.note(c, "tcp", "", "too many connections at once; close some")
		c.reset()
		return nil
	}
	c.onClose = p.leave
	p.mu.Lock()
	p.conns[c] = struct{}{}
	p.mu.Unlock()
	return c
}

func (p *proxy) leave(c *conn) {
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
	p.places.give(c.guest)
}

// cut ends the connections that may not stay.
func (p *proxy) cut(stays func(*conn) bool) {
	p.mu.Lock()
	var gone []*conn
	for c := range p.conns {
		if !stays(c) {
			gone = append(gone, c)
		}
	}
	p.mu.Unlock()
	for _, c := range gone {
		c.reset()
	}
}

// recheck ends the connections that the present rules forbid. A name's addresses
// need not be known any more: they were when it was opened.
func (p *proxy) recheck() {
	rules := p.rules.Load()
	p.cut(func(c *conn) bool {
		g := rules.byAddress[c.from]
		if g == nil || g.Name != c.guest {
			return false
		}
		name := c.name.Load()
		return name == nil || rules.reach(g, *name, c.dst.Addr(), c.dst.Port()).Allowed
	})
}

// guestOf is the guest as the present rules have it, or nil.
func (p *proxy) guestOf(c *conn) (*rules, *guest) {
	rules := p.rules.Load()
	g := rules.byAddress[c.from]
	if g == nil || g.Name != c.guest {
		return rules, nil
	}
	return rules, g
}

// handle finds out what a connection is and passes it on, or says why not.
func (p *proxy) handle(ctx context.Context, c *conn) {
	rules, g := p.guestOf(c)
	if g == nil {
		c.reset()
		return
	}
	if c.dst.Addr() == rules.policy.Gateway && c.dst.Port() == portHTTP {
		p.web.take(c)
		return
	}
	if rules.reach(g, "", c.dst.Addr(), c.dst.Port()).Allowed {
		p.connect(ctx, c, "")
		return
	}
	p.byProtocol(ctx, c, g)
}

// byProtocol decides by the name that the client tells.
func (p *proxy) byProtocol(ctx context.Context, c *conn, g *guest) {
	limit := quietTimeout
	if strict := c.dst.Port() == portHTTP || c.dst.Port() == portHTTPS; strict {
		limit = helloTimeout
	}
	quiet, err := c.fillWithin(1, limit)
	switch {
	case err != nil:
		_ = c.Close()
	case quiet:
		p.quiet(ctx, c, g)
	default:
		p.spoken(ctx, c, g, nil)
	}
}

// spoken goes on once the client has said something; server is a connection
// that was made while it had not.
func (p *proxy) spoken(ctx context.Context, c *conn, g *guest, server *net.TCPConn) {
	raw := false
	switch {
	case c.start[0] == recordHandshake:
		closeUnused(server)
		p.tls(ctx, c)
	case startsHTTP(c.start):
		closeUnused(server)
		p.web.take(c)
	default:
		raw = true
	}
	if raw {
		p.raw(ctx, c, g, server)
	}
}

func closeUnused(server *net.TCPConn) {
	if server != nil {
		_ = server.Close()
	}
}

// startsHTTP says that a connection begins as a request does, or could yet: a
// word, a space, and HTTP/ on the same line. Servers take more methods than there
// are, so any word counts; SSH's greeting is one, too.
func startsHTTP(b []byte) bool {
	if b[0] == '\r' || b[0] == '\n' {
		return true // servers pass over leading line ends (RFC 9112, section 2.2)
	}
	line, _, whole := bytes.Cut(b, []byte("\n"))
	word, _, _ := bytes.Cut(line, []byte(" "))
	if bytes.HasPrefix(b, []byte("SSH-")) || bytes.ContainsFunc(word, notToken) {
		return false
	}
	return !whole || bytes.Contains(bytes.ToUpper(line), []byte(" HTTP/"))
}

// notToken says that a byte is in no method (RFC 9110, section 5.6.2).
func notToken(c rune) bool {
	return c <= ' ' && c != '\r' || c >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, c)
}

// raw passes on a protocol that tells no name, where a name that may be reached
// at that very port had the address.
func (p *proxy) raw(ctx context.Context, c *conn, g *guest, server *net.TCPConn) {
	name, v := p.rawName(c, g)
	if !v.Allowed {
		closeUnused(server)
		p.refuse(c, "tcp", name, v.Reason)
		return
	}
	if server == nil {
		p.connect(ctx, c, name)
		return
	}
	c.name.Store(&name)
	splice(ctx, c, server)
}

func (p *proxy) rawName(c *conn, g *guest) (string, Verdict) {
	rules := p.rules.Load()
	a, port := c.dst.Addr(), c.dst.Port()
	switch port {
	case portHTTPS:
		return "", denied("port %d carries only TLS that names its server", port)
	case portHTTP:
		return "", denied("port %d carries only HTTP", port)
	}
	name, ok := p.records.find(c.guest, a, func(name string) bool { return rules.reach(g, name, a, port).Allowed })
	if !ok {
		return "", rules.reach(g, "", a, port)
	}
	return name, rules.reach(g, name, a, port)
}

// quiet serves protocols in which the server speaks first. Whoever speaks first
// after all decides: a client that was only slow has to tell its name.
func (p *proxy) quiet(ctx context.Context, c *conn, g *guest) {
	name, v := p.rawName(c, g)
	if !v.Allowed {
		p.refuse(c, "tcp", name, v.Reason)
		return
	}
	server, err := p.dial(ctx, c, name)
	if err != nil {
		c.reset()
		return
	}
	greeting, clientFirst := firstWord(c, server)
	if clientFirst {
		p.spoken(ctx, c, g, server)
		return
	}
	c.name.Store(&name)
	if _, err := c.Write(greeting); err != nil || len(greeting) == 0 {
		_ = server.Close()
		_ = c.Close()
		return
	}
	splice(ctx, c, server)
}

// firstWord waits for the first bytes of either side.
func firstWord(c *conn, server *net.TCPConn) (greeting []byte, clientFirst bool) {
	answered := make(chan []byte, 1)
	go func() {
		b := make([]byte, 4096)
		n, _ := server.Read(b)
		_ = c.SetReadDeadline(time.Unix(1, 0))
		answered <- b[:n]
	}()
	err := c.fill(1)
	_ = server.SetReadDeadline(time.Unix(1, 0))
	greeting = <-answered
	_ = c.SetReadDeadline(time.Time{})
	_ = server.SetReadDeadline(time.Time{})
	return greeting, err == nil && len(greeting) == 0
}

// tls passes on a connection whose ClientHello names a server that is allowed,
// to an address of that server's.
func (p *proxy) tls(ctx context.Context, c *conn) {
	h, err := p.readHello(c)
	if err != nil {
		p.refuseTLS(c, "", err.Error())
		return
	}
	rules, g := p.guestOf(c)
	if g == nil {
		c.reset()
		return
	}
	if v := p.named(rules, g, h.name, c.dst, h.hidden); !v.Allowed {
		p.refuseTLS(c, h.name, v.Reason)
		return
	}
	p.connect(ctx, c, h.name)
}

func (p *proxy) readHello(c *conn) (hello, error) {
	deadline := time.Now().Add(helloTimeout)
	for {
		h, need, err := parseHello(c.start)
		if need == 0 || err != nil {
			return h, err
		}
		quiet, err := c.fillWithin(need, time.Until(deadline))
		if quiet || err != nil {
			return h, errHello
		}
	}
}

// named decides about a connection by the name that the client told.
func (p *proxy) named(rules *rules, g *guest, name string, dst netip.AddrPort, hidden bool) Verdict {
	v := rules.reach(g, name, dst.Addr(), dst.Port())
	switch {
	case !v.Allowed:
		return v
	case hidden:
		return denied("the server's name is encrypted (ECH), so it can't be checked; turn that off in the client: for Chromium --disable-features=EncryptedClientHello, for Firefox security.tls.ech.grease_probability=0")
	case !p.records.has(g.Name, name, dst.Addr()):
		return denied("%s is no address that bield's resolver gave VM %s for %s of late; look the name up again, without a resolver or cache of another kind", dst.Addr(), g.Name, name)
	}
	return v
}

// connect passes a connection on.
func (p *proxy) connect(ctx context.Context, c *conn, name string) {
	server, err := p.dial(ctx, c, name)
	if err != nil {
		p.log.Debug("an allowed connection failed", "vm", c.guest, "name", name, "error", err)
		c.reset()
		return
	}
	splice(ctx, c, server)
}

// dial makes the connection to where the guest wanted, once more sure that the
// rules of now allow it.
func (p *proxy) dial(ctx context.Context, c *conn, name string) (*net.TCPConn, error) {
	rules, g := p.guestOf(c)
	if g == nil {
		return nil, net.ErrClosed
	}
	if v := rules.reach(g, name, c.dst.Addr(), c.dst.Port()); !v.Allowed {
		return nil, errors.New(v.Reason)
	}
	c.name.Store(&name)
	d := net.Dialer{Timeout: dialTimeout}
	server, err := d.DialContext(ctx, "tcp4", c.dst.String())
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", c.dst, err)
	}
	return server.(*net.TCPConn), nil
}

// note counts a denial.
func (p *proxy) note(c *conn, kind, name, why string) {
	p.denials.add(Denial{VM: c.guest, Kind: kind, Name: forPrint(name), Address: c.dst.Addr().String(), Port: c.dst.Port(), Reason: why})
}

func (p *proxy) refuse(c *conn, kind, name, why string) {
	p.note(c, kind, name, why)
	c.reset()
}

// refuseTLS says so in TLS: a fatal alert, access_denied (RFC 8446, section 6).
func (p *proxy) refuseTLS(c *conn, name, why string) {
	p.note(c, "tls", name, why)
	defer c.Close()
	const alert, fatal, accessDenied = 21, 2, 49
	_ = c.SetDeadline(time.Now().Add(alertTimeout))
	if _, err := c.Write([]byte{alert, 3, 3, 0, 2, fatal, accessDenied}); err != nil {
		return
	}
	_ = c.CloseWrite()
	// What was not read would make the kernel take the alert back.
	_, _ = io.CopyN(io.Discard, c.TCPConn, maxHello)
}
