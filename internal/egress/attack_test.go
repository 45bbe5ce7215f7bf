package egress

import (
	"bufio"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"bield/internal/spec"
)

// The tricks by which a guest gets past an allow-list. Each test shows that the
// trick works with the one protection off, and fails with it.

func TestAllowedNameWorks(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newStage(t)
	newWorld(t, s)
	s.set(t, allowlist(t, "allowed.test", "*.wild.test"))
	s.resolved(t, "allowed.test", siteIP)
	must(t, s.tlsTo(t, siteIP+":443", "allowed.test"))
	if code, text := s.get(t, siteIP+":80", "allowed.test"); code != 200 || text != "site allowed.test\n" {
		t.Errorf("HTTP answers %d %s", code, text)
	}
	s.resolved(t, "a.b.wild.test", siteIP)
	must(t, s.tlsTo(t, siteIP+":443", "a.b.wild.test"))
	if got, why := s.addresses(t, "wild.test"); len(got) > 0 || !strings.Contains(why, "not on its list") {
		t.Errorf("*.wild.test opened wild.test itself: %v %s", got, why)
	}
}

func TestPrivateAddress(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newStage(t)
	newWorld(t, s)
	s.set(t, spec.Egress{Mode: spec.EgressOpen})
	if code, _ := s.get(t, lanIP+":80", "inside.test"); code != 200 {
		t.Fatal("the private address can't be reached at all")
	}
	for _, e := range []spec.Egress{allowlist(t, "inside.test"), {Mode: spec.EgressPublic}} {
		s.set(t, e)
		if got, why := s.addresses(t, "inside.test"); len(got) > 0 || !strings.Contains(why, "private or special") {
			t.Errorf("mode %s resolves a name to a private address: %v %s", e.Mode, got, why)
		}
		code, text := s.get(t, lanIP+":80", "inside.test")
		if code != 403 || !strings.Contains(text, "private or special") {
			t.Errorf("mode %s answers %d %s", e.Mode, code, text)
		}
		s.denied(t, "http", lanIP)
	}
	for _, mode := range []spec.EgressMode{spec.EgressAllowlist, spec.EgressPublic, spec.EgressNone} {
		s.set(t, spec.Egress{Mode: mode, Allow: targets(t, "inside.test")})
		s.resolved(t, "inside.test", lanIP)
		if code, text := s.get(t, lanIP+":80", "inside.test"); code != 200 {
			t.Errorf("mode %s with allow answers %d %s", mode, code, text)
		}
	}
}

// What no name opens, whoever allows it.
func TestNeverByName(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newStage(t)
	newWorld(t, s)
	names := []string{"meta.test", "loop.test", "host.test", "gate.test", "sibling.test"}
	s.set(t, spec.Egress{Mode: spec.EgressOpen})
	for _, name := range names {
		if got, _ := s.addresses(t, name); len(got) != 1 {
			t.Errorf("%s does not resolve with filters off", name)
		}
	}
	s.set(t, spec.Egress{Mode: spec.EgressAllowlist, Allow: targets(t, names...)})
	for _, name := range names {
		if got, why := s.addresses(t, name); len(got) > 0 || why == "" {
			t.Errorf("%s resolves to %v", name, got)
		}
	}
	for _, to := range []string{"169.254.169.254:80", hostIP + ":80"} {
		if code, text := s.get(t, to, "meta.test"); code == 200 {
			t.Errorf("%s answers %s", to, text)
		}
	}
}

func TestChangedAddress(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newStage(t)
	w := newWorld(t, s)
	s.set(t, allowlist(t, "allowed.test"))
	s.resolved(t, "allowed.test", siteIP)
	// The guest says that the name has moved; the resolver has not said so.
	w.replace(t, "allowed.test.", "allowed.test. 60 IN A "+otherIP)
	if err := s.tlsTo(t, otherIP+":443", "allowed.test"); err == nil {
		t.Error("an address that was not resolved is open")
	}
	s.denied(t, "tls", otherIP, "no address that bield's resolver gave")
	must(t, s.tlsTo(t, siteIP+":443", "allowed.test")) // the old one counts for its TTL
	// Set anew, the cache is empty, and the name may move, but not inside.
	s.set(t, allowlist(t, "allowed.test", "other.test"))
	s.resolved(t, "allowed.test", otherIP)
	must(t, s.tlsTo(t, otherIP+":443", "allowed.test"))
	w.replace(t, "allowed.test.", "allowed.test. 60 IN A "+lanIP)
	s.set(t, allowlist(t, "allowed.test"))
	if got, _ := s.addresses(t, "allowed.test"); len(got) > 0 {
		t.Errorf("a name that was public moved to %v", got)
	}
	s.set(t, spec.Egress{Mode: spec.EgressOpen}) // without the protection
	must(t, s.tlsTo(t, lanIP+":443", "allowed.test"))
}

func TestOtherServerName(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newStage(t)
	newWorld(t, s)
	s.set(t, allowlist(t, "allowed.test", "other.test"))
	s.resolved(t, "allowed.test", siteIP)
	s.resolved(t, "other.test", otherIP)
	for name, why := range map[string]string{
		"second.test": "not on its list",         // a forbidden name on the same address
		"other.test":  "no address that bield's", // an allowed name of another address
		"":            "opens names and not addresses",
	} {
		err := s.tlsTo(t, siteIP+":443", name)
		if err == nil || !strings.Contains(err.Error(), "access denied") {
			t.Errorf("server name %q: %v", name, err)
		}
		s.denied(t, "tls", siteIP, why)
		if code, text := s.get(t, siteIP+":80", name); code == 200 {
			t.Errorf("host %q: %d %s", name, code, text)
		}
	}
	s.set(t, spec.Egress{Mode: spec.EgressPublic})
	must(t, s.tlsTo(t, siteIP+":443", "second.test"))
}

// Each request of a connection counts by itself.
func TestSecondNameOnOneConnection(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newStage(t)
	newWorld(t, s)
	both := func() (first, second int, text string) {
		c, err := s.dial(t, siteIP+":80")
		must(t, err)
		in := bufio.NewReader(c)
		first, _ = request(t, c, in, "allowed.test")
		second, text = request(t, c, in, "second.test")
		return first, second, text
	}
	s.set(t, spec.Egress{Mode: spec.EgressPublic})
	if first, second, text := both(); first != 200 || second != 200 {
		t.Fatalf("with all open: %d, %d %s", first, second, text)
	}
	s.set(t, allowlist(t, "allowed.test"))
	s.resolved(t, "allowed.test", siteIP)
	first, second, text := both()
	if first != 200 || second != 403 || !strings.Contains(text, "names: [second.test]") {
		t.Errorf("answers %d, then %d %s", first, second, text)
	}
	s.denied(t, "http", "second.test")
}

func TestByAddress(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newStage(t)
	newWorld(t, s)
	s.set(t, spec.Egress{Mode: spec.EgressPublic})
	if code, _ := s.get(t, siteIP+":80", siteIP); code != 200 {
		t.Fatal("plain HTTP by IP does not work with all open")
	}
	s.set(t, allowlist(t, "allowed.test"))
	s.resolved(t, "allowed.test", siteIP)
	for _, host := range []string{siteIP, "", "[::ffff:9.9.8.1]", "0x09090801"} {
		if code, text := s.get(t, siteIP+":80", host); code == 200 {
			t.Errorf("by %q: %d %s", host, code, text)
		}
	}
	s.denied(t, "http", siteIP, "opens names and not addresses")
	// With an allowed Host to an address that is not the name's.
	if code, text := s.get(t, otherIP+":80", "allowed.test"); code != 403 {
		t.Errorf("an allowed Host at another address: %d %s", code, text)
	}
	s.set(t, spec.Egress{Mode: spec.EgressAllowlist, Allow: targets(t, siteIP+":80")})
	if code, _ := s.get(t, siteIP+":80", siteIP); code != 200 {
		t.Error("allow does not open an address")
	}
}

func TestDNSTunnels(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newStage(t)
	w := newWorld(t, s)
	s.set(t, spec.Egress{Mode: spec.EgressOpen})
	for _, network := range []string{"udp", "tcp"} {
		m, err := s.ask(t, network, "other.test", dns.TypeTXT)
		if err != nil || len(m.Answer) != 1 {
			t.Fatalf("TXT by %s does not work with all open: %v", network, err)
		}
	}
	w.asked = nil
	s.set(t, allowlist(t, "allowed.test", "*.wild.test"))
	for _, network := range []string{"udp", "tcp"} {
		m, err := s.ask(t, network, "secret.other.test", dns.TypeTXT)
		must(t, err)
		if len(m.Answer) != 1 || !strings.Contains(m.Answer[0].String(), "not on its list") || strings.Contains(m.Answer[0].String(), "data out") {
			t.Errorf("TXT of a denied name by %s: %v", network, m.Answer)
		}
		m, err = s.ask(t, network, "secret.other.test", dns.TypeA)
		must(t, err)
		if m.Rcode != dns.RcodeNameError || !strings.Contains(extended(m), "not on its list") || len(m.Ns) != 1 {
			t.Errorf("a denied name by %s: %v", network, m)
		}
		for _, kind := range []uint16{dns.TypeTXT, dns.TypeAAAA, dns.TypeHTTPS, dns.TypeNULL, dns.TypeMX, dns.TypeANY} {
			m, err := s.ask(t, network, "allowed.test", kind)
			must(t, err)
			if len(m.Answer) > 0 {
				t.Errorf("%s of an allowed name by %s: %v", dns.TypeToString[kind], network, m.Answer)
			}
		}
		m, err = s.ask(t, network, strings.Repeat("x", 63)+"."+strings.Repeat("y", 63)+".wild.test", dns.TypeA)
		must(t, err)
		if m.Rcode != dns.RcodeServerFailure || !strings.Contains(extended(m), "characters") {
			t.Errorf("a long name below a wildcard: %v", m)
		}
	}
	for _, leaked := range []string{"secret", "xxxx", "TXT", "AAAA", "HTTPS", "NULL", "MX", "ANY"} {
		if w.heard(leaked) {
			t.Errorf("%s went out: %v", leaked, w.asked)
		}
	}
	// Data in many short names below a wildcard are slowed down.
	refused := 0
	for n := range freeBurst + 50 {
		if m, err := s.ask(t, "udp", fmt.Sprintf("n%d.wild.test", n), dns.TypeA); err == nil && m.Rcode == dns.RcodeServerFailure {
			refused++
		}
	}
	if refused == 0 {
		t.Error("names below a wildcard are not bounded")
	}
}

func TestIPv6(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newStage(t)
	newWorld(t, s)
	s.set(t, spec.Egress{Mode: spec.EgressPublic})
	m, err := s.ask(t, "udp", "allowed.test", dns.TypeAAAA)
	must(t, err)
	if m.Rcode != dns.RcodeSuccess || len(m.Answer) > 0 || !strings.Contains(extended(m), "no IPv6") {
		t.Errorf("AAAA: %v", m)
	}
}

func TestCNAME(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newStage(t)
	w := newWorld(t, s)
	s.set(t, allowlist(t, "alias.test"))
	s.resolved(t, "alias.test", otherIP)
	must(t, s.tlsTo(t, otherIP+":443", "alias.test")) // the name that was asked
	if err := s.tlsTo(t, otherIP+":443", "other.test"); err == nil {
		t.Error("the end of a CNAME became allowed")
	}
	s.denied(t, "tls", "other.test")
	if got, _ := s.addresses(t, "other.test"); len(got) > 0 {
		t.Errorf("the end of a CNAME resolves to %v", got)
	}
	w.replace(t, "alias.test.", "alias.test. 60 IN CNAME inside.test.")
	s.set(t, allowlist(t, "alias.test", "inside.test"))
	if got, _ := s.addresses(t, "alias.test"); len(got) > 0 {
		t.Errorf("a CNAME leads inside: %v", got)
	}
	s.set(t, spec.Egress{Mode: spec.EgressPublic}) // without the protection
	must(t, s.tlsTo(t, otherIP+":443", "other.test"))
}

func TestManyNames(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newStage(t)
	w := newWorld(t, s)
	const many = 10_000
	names := make([]string, many)
	for n := range many {
		names[n] = fmt.Sprintf("n%d.many.test", n)
	}
	w.add(t, "*.many.test. 3600 IN A "+siteIP)
	s.set(t, allowlist(t, names...))
	g := newRules(s.policy, func(netip.Addr) bool { return false }).byName["claude"]
	start := time.Now()
	for _, name := range names {
		if len(g.grants(name)) != 1 || len(g.grants("x."+name)) != 0 {
			t.Fatalf("%s is not matched by itself alone", name)
		}
	}
	t.Logf("%d names matched twice in %s", many, time.Since(start))
	s.resolved(t, names[0], siteIP)
	s.resolved(t, names[many-1], siteIP)
	must(t, s.tlsTo(t, siteIP+":443", names[many-1]))
	if err := s.tlsTo(t, siteIP+":443", "n10000.many.test"); err == nil {
		t.Error("a name that is not listed is open")
	}
}

func TestResolverDown(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newStage(t)
	w := newWorld(t, s)
	s.set(t, allowlist(t, "allowed.test", "second.test"))
	s.resolved(t, "allowed.test", siteIP)
	w.mu.Lock()
	w.mute = true
	w.mu.Unlock()
	for range downAfter {
		start := time.Now()
		m, err := s.ask(t, "udp", "second.test", dns.TypeA)
		must(t, err)
		if m.Rcode != dns.RcodeServerFailure || extended(m) == "" || time.Since(start) > askAllTimeout+time.Second {
			t.Errorf("after %s: %v", time.Since(start), m)
		}
	}
	start := time.Now()
	m, err := s.ask(t, "udp", "second.test", dns.TypeA)
	must(t, err)
	if m.Rcode != dns.RcodeServerFailure || time.Since(start) > time.Second {
		t.Errorf("when it is known: %s, %v", time.Since(start), m)
	}
	must(t, s.tlsTo(t, siteIP+":443", "allowed.test")) // what is known goes on
	if err := s.tlsTo(t, siteIP+":443", "second.test"); err == nil {
		t.Error("without a resolver a name is open")
	}
	// Another name server helps.
	w.mu.Lock()
	w.mute = false
	w.mu.Unlock()
	s.policy.Nameservers = []netip.AddrPort{netip.MustParseAddrPort(otherIP + ":53"), netip.MustParseAddrPort(dnsIP)}
	s.set(t, allowlist(t, "second.test"))
	s.resolved(t, "second.test", siteIP)
}
