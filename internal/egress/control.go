package egress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// Paths of the control socket.
const (
	pathPolicy = "/v1/policy"
	pathCheck  = "/v1/check"
	pathLog    = "/v1/log"
	// maxPolicy bounds a policy: MaxTargetsOfHost targets take 15 MB at most.
	maxPolicy      = 32 << 20
	controlTimeout = 30 * time.Second
)

// Status says which policy is in force.
type Status struct {
	// Version is the policy's, see Policy.Version. Before the first one it is
	// that of the empty policy, which denies everything.
	Version string `json:"version"`
	VMs     int    `json:"vms"`
}

// Check says what would happen to a VM that goes somewhere.
type Check struct {
	VM      string `json:"vm"`
	Mode    string `json:"mode"`
	Name    string `json:"name,omitempty"`
	Port    uint16 `json:"port"`
	Allowed bool   `json:"allowed"`
	// Rule is what opens it, Reason why it is closed: of the name, or of the
	// first address.
	Rule   string `json:"rule,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Addresses are those that the name has now, each with its own verdict.
	Addresses []CheckedAddress `json:"addresses,omitempty"`
}

// CheckedAddress is one address of a name.
type CheckedAddress struct {
	Address netip.Addr `json:"address"`
	Verdict
}

// control answers the daemon.
type control struct {
	*core
	resolver *resolver
	proxy    *proxy
}

func (c *control) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT "+pathPolicy, c.putPolicy)
	mux.HandleFunc("GET "+pathPolicy, func(w http.ResponseWriter, _ *http.Request) { c.status(w) })
	mux.HandleFunc("GET "+pathCheck, c.getCheck)
	mux.HandleFunc("GET "+pathLog, c.getLog)
	return mux
}

// serve answers root, and who runs this process, until ctx ends.
func (c *control) serve(ctx context.Context, l net.Listener) error {
	s := &http.Server{
		Handler: c.handler(), ReadHeaderTimeout: controlTimeout, ReadTimeout: controlTimeout, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(rootOnly{l}); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

// rootOnly is a unix listener that takes the connections of root alone, and of
// who runs this process.
type rootOnly struct{ net.Listener }

// Accept closes the connections of others.
func (l rootOnly) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil || isRoot(c) {
			return c, err
		}
		_ = c.Close()
	}
}

func isRoot(c net.Conn) bool {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return false
	}
	root := false
	err = raw.Control(func(fd uintptr) {
		peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		root = err == nil && (peer.Uid == 0 || int(peer.Uid) == os.Geteuid())
	})
	return err == nil && root
}

func (c *control) putPolicy(w http.ResponseWriter, r *http.Request) {
	var p Policy
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxPolicy))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		http.Error(w, "read the policy: "+err.Error(), http.StatusBadRequest)
		return
	}
	if err := p.Check(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.apply(p)
	c.status(w)
}

// apply puts a policy in force: for what is asked from now on, and for what is
// open already.
func (c *control) apply(p Policy) {
	stays := c.set(p)
	c.resolver.forget(stays)
	c.proxy.recheck()
	c.log.Info("policy", "version", c.rules.Load().version, "vms", len(p.VMs))
}

func (c *control) status(w http.ResponseWriter) {
	rules := c.rules.Load()
	answerJSON(w, Status{Version: rules.version, VMs: len(rules.policy.VMs)})
}

func (c *control) getCheck(w http.ResponseWriter, r *http.Request) {
	rules := c.rules.Load()
	g := rules.byName[r.FormValue("vm")]
	if g == nil {
		http.Error(w, fmt.Sprintf("no VM %q runs", r.FormValue("vm")), http.StatusNotFound)
		return
	}
	host, port, err := splitTarget(r.FormValue("target"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answerJSON(w, c.check(r.Context(), rules, g, host, port))
}

// splitTarget reads HOST or HOST:PORT; without a port it is that of HTTPS.
func splitTarget(target string) (host string, port uint16, err error) {
	host, port = target, portHTTPS
	if h, p, err := net.SplitHostPort(target); err == nil {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return "", 0, fmt.Errorf("%q has no port between 1 and 65535", forPrint(target))
		}
		host, port = h, uint16(n)
	}
	return host, port, nil
}

// check goes the way that a guest would, and leaves no trace of it.
func (c *control) check(ctx context.Context, rules *rules, g *guest, host string, port uint16) Check {
	out := Check{VM: g.Name, Mode: string(g.mode), Port: port}
	if a, err := netip.ParseAddr(host); err == nil {
		v := rules.reach(g, "", a.Unmap(), port)
		out.Allowed, out.Rule, out.Reason = v.Allowed, v.Rule, v.Reason
		return out
	}
	name, err := cleanName(host)
	if err != nil {
		out.Reason = fmt.Sprintf("%q %v", forPrint(host), err)
		return out
	}
	out.Name = name
	if v := rules.resolve(g, name); !v.Allowed {
		out.Reason = v.Reason
		return out
	}
	answer, err := c.resolver.upstream.ask(ctx, rules.policy.Nameservers, name, dns.TypeA)
	if err != nil {
		out.Reason = "allowed, but not resolved: " + err.Error()
		return out
	}
	out.judge(rules, g, follow(name, dns.TypeA, answer))
	return out
}

// judge looks at each address; one that may be reached is enough.
func (out *Check) judge(rules *rules, g *guest, c chain) {
	out.Reason = "allowed, but the name has no IPv4 address"
	for _, rr := range c.records {
		record, ok := rr.(*dns.A)
		if !ok {
			continue
		}
		a, _ := netip.AddrFromSlice(record.A)
		v := rules.reach(g, out.Name, a.Unmap(), out.Port)
		if len(out.Addresses) == 0 || v.Allowed && !out.Allowed {
			out.Allowed, out.Rule, out.Reason = v.Allowed, v.Rule, v.Reason
		}
		out.Addresses = append(out.Addresses, CheckedAddress{a.Unmap(), v})
	}
}

// getLog gives the denials, one JSON object a line; with follow those that come.
func (c *control) getLog(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	out, flush := json.NewEncoder(w), http.NewResponseController(w)
	show := func(list []Denial) error {
		for _, d := range list {
			if err := out.Encode(d); err != nil {
				return err
			}
		}
		return flush.Flush()
	}
	vm := r.FormValue("vm")
	if r.FormValue("follow") == "" {
		list, _, _ := c.denials.since(0, vm)
		_ = show(list) // the daemon went away
		return
	}
	_ = c.denials.follow(r.Context(), vm, show)
}

func answerJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // the daemon went away
}
