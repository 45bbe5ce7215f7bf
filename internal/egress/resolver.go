package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"bield/internal/spec"
)

// Limits of the resolver. Names that only a wildcard allows are what data can
// leave by, as parts of names that the domain's owner sees.
const (
	maxQueries, maxQueriesVM = 2048, 256
	maxDNSConns              = 512
	maxDNSConnsVM            = 32
	askRate, askBurst        = 200, 2000
	freeRate, freeBurst      = 10, 500
	// maxFree bounds the part of a name that stands for the "*".
	maxFree = 80
	// maxCached bounds the answers remembered of each VM.
	maxCached = 2048
	// After downAfter questions of a VM in a row that no name server answered
	// the next are refused at once for downFor.
	downAfter = 3
	downFor   = 2 * time.Second
)

// resolver answers guests' questions.
type resolver struct {
	*core
	upstream *upstream
	queries  *slots
	asks     *buckets
	free     *buckets

	mu     sync.Mutex
	guests map[string]*asker
}

// asker is what is remembered of one VM's questions: answers are not shared
// among VMs, or one could tell what another asks.
type asker struct {
	cache *lru[cacheKey, cached]
	fails int
	until time.Time // refused at once till then
}

type cacheKey struct {
	name string
	kind uint16
}

type cached struct {
	chain chain
	until time.Time
}

func newResolver(c *core) *resolver {
	return &resolver{
		core: c, upstream: newUpstream(), queries: newSlots(maxQueries, maxQueriesVM),
		asks: newBuckets(askRate, askBurst), free: newBuckets(freeRate, freeBurst), guests: map[string]*asker{},
	}
}

// forget drops what was cached: it may not fit the rules any more.
func (r *resolver) forget(stays func(vm string) bool) {
	r.mu.Lock()
	r.guests = map[string]*asker{}
	r.mu.Unlock()
	r.asks.keep(stays)
	r.free.keep(stays)
}

// ServeDNS answers one message; it is called for each in a goroutine of its own.
func (r *resolver) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	rules := r.rules.Load()
	from := addressOf(w.RemoteAddr())
	g := rules.byAddress[from.Addr()]
	if g == nil || len(q.Question) != 1 {
		return // nobody of ours, or no question
	}
	if !r.queries.take(g.Name) {
		send(w, q, failure(dns.ExtendedErrorCodeOther, "too many questions at once; wait for answers"))
		return
	}
	defer r.queries.give(g.Name)
	ctx, cancel := context.WithTimeout(r.ctx(), askAllTimeout+time.Second)
	defer cancel()
	send(w, q, r.answer(ctx, rules, g, q.Question[0]))
}

func send(w dns.ResponseWriter, q *dns.Msg, r reply) {
	m := r.message(q)
	size := dns.MaxMsgSize
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		size = dns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			size = min(max(int(opt.UDPSize()), dns.MinMsgSize), udpSize)
		}
	}
	m.Truncate(size)
	_ = w.WriteMsg(m) // a guest that does not listen asks again
}

// addressOf is whom a packet or connection came from.
func addressOf(a net.Addr) netip.AddrPort {
	var at netip.AddrPort
	switch a := a.(type) {
	case *net.UDPAddr:
		at = a.AddrPort()
	case *net.TCPAddr:
		at = a.AddrPort()
	}
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

func (r *resolver) answer(ctx context.Context, rules *rules, g *guest, q dns.Question) reply {
	if q.Qclass != dns.ClassINET {
		return reply{rcode: dns.RcodeRefused}
	}
	name, err := cleanName(q.Name)
	switch {
	case err != nil && (q.Name == "." || !g.filtersNames()):
		return reply{rcode: dns.RcodeNameError}
	case err != nil:
		return r.deny(g, forPrint(q.Name), q.Qtype, "it "+err.Error())
	case name == spec.EgressName || strings.HasSuffix(name, "."+spec.EgressName):
		return rules.ownName(g, name, q.Qtype)
	case special(name):
		return reply{rcode: dns.RcodeNameError}
	}
	if v := rules.resolve(g, name); !v.Allowed {
		return r.deny(g, name, q.Qtype, v.Reason)
	}
	if !g.resolves(q.Qtype) {
		return nothing(fmt.Sprintf("questions for %s are not answered here", kindName(q.Qtype)))
	}
	return r.lookUp(ctx, rules, g, name, q.Qtype)
}

func kindName(kind uint16) string {
	if kind == dns.TypeAAAA {
		return "AAAA (guests have no IPv6)"
	}
	if name := dns.TypeToString[kind]; name != "" {
		return name
	}
	return fmt.Sprintf("TYPE%d", kind)
}

// special names have no addresses here: of the guest itself (RFC 6761), and those
// by which programs look for a resolver other than this one (RFC 9462, Firefox).
func special(name string) bool {
	return name == "localhost" || strings.HasSuffix(name, ".localhost") ||
		strings.HasSuffix(name, ".resolver.arpa") || name == "use-application-dns.net"
}

// ownName answers for the gateway's page.
func (r *rules) ownName(g *guest, name string, kind uint16) reply {
	switch {
	case name != spec.EgressName:
		return reply{rcode: dns.RcodeNameError, ttl: negativeTTL}
	case kind == dns.TypeA:
		return reply{records: []dns.RR{&dns.A{Hdr: header(name, kind, time.Minute), A: r.policy.Gateway.AsSlice()}}}
	case kind == dns.TypeTXT:
		return reply{records: []dns.RR{text(name, fmt.Sprintf("VM %s, egress: %s; more at http://%s/", g.Name, g.mode, name))}}
	}
	return reply{ttl: negativeTTL}
}

func (r *resolver) deny(g *guest, name string, kind uint16, why string) reply {
	r.denials.add(Denial{VM: g.Name, Kind: "dns", Name: name, Reason: why})
	return refusal(name, kind, why)
}

// lookUp answers for a name that is allowed.
func (r *resolver) lookUp(ctx context.Context, rules *rules, g *guest, name string, kind uint16) reply {
	c, bad := r.chainOf(ctx, rules, g, name, kind)
	if bad != nil {
		return *bad
	}
	out, addresses := rules.filtered(g, name, kind, c)
	if out.code == dns.ExtendedErrorCodeBlocked {
		return r.deny(g, name, kind, out.why)
	}
	if len(addresses) > 0 && len(g.grants(name)) > 0 {
		r.records.add(g.Name, name, addresses, out.ttl)
	}
	return out
}

// chainOf takes an answer from the cache or the name servers; bad is what the
// guest is told where neither has one.
func (r *resolver) chainOf(ctx context.Context, rules *rules, g *guest, name string, kind uint16) (c chain, bad *reply) {
	key := cacheKey{name, kind}
	if c, ok := r.cached(g.Name, key); ok {
		return c, nil
	}
	if why := r.tooMuch(g, name); why != "" {
		r.denials.add(Denial{VM: g.Name, Kind: "dns", Name: name, Reason: why})
		return c, new(failure(dns.ExtendedErrorCodeProhibited, why))
	}
	if r.isDown(g.Name) {
		return c, new(failure(dns.ExtendedErrorCodeNoReachableAuthority, "no name server of the host answered the last questions"))
	}
	answer, err := r.upstream.ask(ctx, rules.policy.Nameservers, name, kind)
	r.heard(g.Name, err)
	if err != nil {
		return c, new(failure(dns.ExtendedErrorCodeNoReachableAuthority, forPrint(err.Error())))
	}
	c = follow(name, kind, answer)
	r.remember(g.Name, key, c)
	return c, nil
}

// tooMuch bounds what can leave in questions.
func (r *resolver) tooMuch(g *guest, name string) string {
	chosen, wild := "", false
	if g.filtersNames() {
		chosen, wild = g.wildcardOnly(name)
	}
	switch {
	case len(chosen) > maxFree:
		return fmt.Sprintf("names below a wildcard may have %d characters in place of the *; ask the host's user to list this one", maxFree)
	case wild && !r.free.take(g.Name):
		return "too many different names below wildcards; ask again later"
	case !r.asks.take(g.Name):
		return "too many different names; ask again later"
	}
	return ""
}

func (r *resolver) asker(vm string) *asker {
	a := r.guests[vm]
	if a == nil {
		a = &asker{cache: newLRU[cacheKey, cached](maxCached, nil)}
		r.guests[vm] = a
	}
	return a
}

func (r *resolver) cached(vm string, key cacheKey) (chain, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	hit, ok := r.asker(vm).cache.get(key)
	left := time.Until(hit.until)
	if !ok || left <= 0 {
		return chain{}, false
	}
	hit.chain.ttl = left
	return hit.chain, true
}

func (r *resolver) remember(vm string, key cacheKey, c chain) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asker(vm).cache.put(key, cached{c, time.Now().Add(clampTTL(c.ttl))})
}

func (r *resolver) isDown(vm string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Before(r.asker(vm).until)
}

// heard counts time-outs: an answer of any kind says that a server is there.
func (r *resolver) heard(vm string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.asker(vm)
	if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded) {
		a.fails = 0
		return
	}
	if a.fails++; a.fails >= downAfter {
		a.fails, a.until = 0, time.Now().Add(downFor)
	}
}
