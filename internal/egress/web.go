package egress

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"
	"sync"
	"time"

	"bield/internal/spec"
)

const (
	// maxHead bounds the head of a request.
	maxHead     = 64 << 10
	idleTimeout = 2 * time.Minute
)

// web serves the connections that speak HTTP: each request by itself, as one
// connection may carry many names.
type web struct {
	proxy  *proxy
	server *http.Server
	queue  chan net.Conn
	ended  chan struct{}
	once   sync.Once
}

type connKey struct{}

// link is a guest's connection with its way to the server.
type link struct {
	conn      *conn
	transport *http.Transport
}

func newWeb(p *proxy) *web {
	w := &web{proxy: p, queue: make(chan net.Conn), ended: make(chan struct{})}
	quiet := log.New(io.Discard, "", 0) // guests' faults are no news of the host's
	reverse := &httputil.ReverseProxy{
		Rewrite: rewrite, Transport: roundTripper{}, FlushInterval: -1, ErrorLog: quiet, ErrorHandler: w.unreachable,
	}
	w.server = &http.Server{
		Handler:           w.check(reverse),
		ReadHeaderTimeout: helloTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHead, ErrorLog: quiet,
		ConnContext: w.link,
	}
	return w
}

// take hands over a connection.
func (w *web) take(c *conn) {
	select {
	case w.queue <- c:
	case <-w.ended:
		c.reset()
	}
}

func (w *web) serve() { _ = w.server.Serve(w) }

func (w *web) close() { _ = w.server.Close() }

// Accept, Close and Addr make it the listener of its own server.
func (w *web) Accept() (net.Conn, error) {
	select {
	case c := <-w.queue:
		return c, nil
	case <-w.ended:
		return nil, net.ErrClosed
	}
}

// Close ends the taking of connections.
func (w *web) Close() error {
	w.once.Do(func() { close(w.ended) })
	return nil
}

// Addr is of no meaning.
func (w *web) Addr() net.Addr { return &net.TCPAddr{} }

// link gives a connection a transport of its own, that connects to where the
// guest wanted and nowhere else.
func (w *web) link(ctx context.Context, nc net.Conn) context.Context {
	c := nc.(*conn)
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			name := ""
			if known := c.name.Load(); known != nil {
				name = *known
			}
			return w.proxy.dial(ctx, c, name)
		},
		DisableCompression: true, MaxIdleConns: 1, IdleConnTimeout: idleTimeout, MaxResponseHeaderBytes: maxHead,
	}
	leave := c.onClose
	c.onClose = func(c *conn) {
		t.CloseIdleConnections()
		leave(c)
	}
	return context.WithValue(ctx, connKey{}, &link{c, t})
}

func linkOf(r *http.Request) *link { return r.Context().Value(connKey{}).(*link) }

// roundTripper sends a request on its own connection's transport.
type roundTripper struct{}

func (roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	return linkOf(r).transport.RoundTrip(r)
}

// check lets through what the rules allow.
func (w *web) check(next http.Handler) http.Handler {
	return http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		c := linkOf(r).conn
		rules, g := w.proxy.guestOf(c)
		if g == nil {
			panic(http.ErrAbortHandler) // the way to end a connection at once
		}
		if c.dst == netip.AddrPortFrom(rules.policy.Gateway, portHTTP) {
			w.page(out, r, g)
			return
		}
		name, v := w.decide(rules, g, c, r)
		if !v.Allowed {
			w.refuse(out, r, g, name, v.Reason)
			return
		}
		c.name.Store(&name)
		next.ServeHTTP(out, r)
	})
}

// decide is about one request.
func (w *web) decide(rules *rules, g *guest, c *conn, r *http.Request) (string, Verdict) {
	host, port := r.Host, ""
	if h, p, err := net.SplitHostPort(r.Host); err == nil {
		host, port = h, p
	}
	name, err := cleanName(host)
	switch {
	case r.Method == http.MethodConnect || r.URL.Host != "" || !strings.HasPrefix(r.RequestURI, "/") && r.RequestURI != "*":
		return forPrint(host), denied("this is no proxy that is asked for others; connect to the server itself")
	case r.Method == "PRI":
		return "", denied("HTTP/2 without TLS is not passed on; use HTTP/1.1")
	case err != nil:
		_, v := "", rules.reach(g, "", c.dst.Addr(), c.dst.Port())
		return forPrint(host), v
	case port != "" && port != fmt.Sprint(c.dst.Port()):
		return name, denied("the request is for port %s, the connection to port %d", forPrint(port), c.dst.Port())
	case c.dst.Port() == portHTTPS:
		return name, denied("port %d carries only TLS that names its server", portHTTPS)
	}
	return name, w.proxy.named(rules, g, name, c.dst, false)
}

// rewrite leaves a request as it was, but for what would change the protocol of
// the connection to one that carries other names unseen.
func rewrite(r *httputil.ProxyRequest) {
	c := linkOf(r.In).conn
	r.Out.URL.Scheme, r.Out.URL.Host = "http", c.dst.String()
	r.Out.Host = r.In.Host
	for _, header := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if values, ok := r.In.Header[header]; ok {
			r.Out.Header[header] = values
		}
	}
	if !upgrades(r.In.Header) {
		r.Out.Header.Del("Upgrade")
		r.Out.Header.Del("Connection")
	}
	r.Out.Header.Del("Http2-Settings")
}

// upgrades says that a request may change the protocol: to one, that is neither
// HTTP nor TLS.
func upgrades(h http.Header) bool {
	to := strings.ToLower(strings.Join(h["Upgrade"], ","))
	return to != "" && !strings.ContainsAny(to, ", \t") &&
		!strings.HasPrefix(to, "h2") && !strings.HasPrefix(to, "http") && !strings.HasPrefix(to, "tls")
}

// refuse answers 403 with the reason.
func (w *web) refuse(out http.ResponseWriter, r *http.Request, g *guest, name, why string) {
	c := linkOf(r).conn
	w.proxy.note(c, "http", name, why)
	plain(out, http.StatusForbidden)
	_, _ = fmt.Fprintf(out, "bield: refused\n\nVM:     %s\nasked:  %s (%s)\nmode:   %s\nreason: %s\n\nWhat is open: http://%s/\n",
		g.Name, forPrint(r.Host), c.dst, g.mode, why, spec.EgressName)
}

func plain(out http.ResponseWriter, status int) {
	out.Header().Set("Content-Type", "text/plain; charset=utf-8")
	out.Header().Set("Cache-Control", "no-store")
	out.WriteHeader(status)
}

// unreachable answers where an allowed server did not.
func (w *web) unreachable(out http.ResponseWriter, _ *http.Request, err error) {
	plain(out, http.StatusBadGateway)
	_, _ = fmt.Fprintf(out, "bield: allowed, but the server was not reached: %s\n", forPrint(err.Error()))
}

// maxShown bounds the denials and the targets of the page.
const maxShown = 50

// page tells a guest what is open to it, and what was refused of late.
func (w *web) page(out http.ResponseWriter, r *http.Request, g *guest) {
	if r.URL.Host != "" || r.Method == http.MethodConnect {
		w.refuse(out, r, g, forPrint(r.Host), "this is no proxy that is asked for others; connect to the server itself")
		return
	}
	plain(out, http.StatusOK)
	_, _ = fmt.Fprintf(out, "bield: where VM %s may go\n\nmode: %s, %s\n", g.Name, g.mode, modeWords(g.mode))
	if g.mode == spec.EgressAllowlist {
		showTargets(out, "names", g.Egress.Names)
	}
	showTargets(out, "allow", g.Egress.Allow)
	recent, _, _ := w.proxy.denials.since(0, g.Name)
	_, _ = fmt.Fprintln(out, "\nrefused of late:")
	for _, d := range recent[max(0, len(recent)-maxShown):] {
		_, _ = fmt.Fprintf(out, "  %s %4d x %-4s %s\n", d.Last.UTC().Format(time.RFC3339), d.Count, d.Kind, d.Reason)
	}
}

func modeWords(mode spec.EgressMode) string {
	switch mode {
	case spec.EgressOpen:
		return "all that the host would route"
	case spec.EgressAllowlist:
		return "the names below"
	case spec.EgressNone:
		return "nothing but what is in allow"
	}
	return "the internet, no private addresses"
}

func showTargets(out io.Writer, name string, targets []spec.Target) {
	if len(targets) == 0 {
		return
	}
	_, _ = fmt.Fprintf(out, "\n%s:\n", name)
	for _, t := range targets[:min(len(targets), maxShown)] {
		_, _ = fmt.Fprintf(out, "  %s\n", t)
	}
	if more := len(targets) - maxShown; more > 0 {
		_, _ = fmt.Fprintf(out, "  and %d more\n", more)
	}
}
