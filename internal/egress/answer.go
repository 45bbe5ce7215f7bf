package egress

import (
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"

	"bield/internal/spec"
)

const (
	// negativeTTL is how long a guest may remember a denial: a rule may change.
	negativeTTL = 5 * time.Second
	// maxChain bounds the CNAMEs that are followed, maxRecords an answer.
	maxChain   = 16
	maxRecords = 256
)

// reply is what a guest is told; it is written anew for each guest, never
// passed through.
type reply struct {
	rcode   int
	records []dns.RR
	ttl     time.Duration
	// code and why are an extended error (RFC 8914); code is meant only with why.
	code uint16
	why  string
}

// open holds the types that mode public resolves beside A and CNAME: what mail
// and service discovery need.
func openTypes() []uint16 {
	return []uint16{dns.TypeTXT, dns.TypeMX, dns.TypeNS, dns.TypeSOA, dns.TypeSRV, dns.TypePTR, dns.TypeCAA, dns.TypeNAPTR}
}

// resolves says that a type is asked of the name servers. Where names are
// filtered those are A and CNAME: TXT and its like would carry data in bulk.
// AAAA has no answer since guests have no IPv6; HTTPS and SVCB would offer QUIC,
// and encrypt the server's name.
func (g *guest) resolves(kind uint16) bool {
	return kind == dns.TypeA || kind == dns.TypeCNAME || !g.filtersNames() && slices.Contains(openTypes(), kind)
}

// refusal denies a name so that programs stop at once, and people can read why:
// `dig` shows the extended error, and a TXT query is answered with the reason.
func refusal(name string, kind uint16, why string) reply {
	r := reply{rcode: dns.RcodeNameError, ttl: negativeTTL, code: dns.ExtendedErrorCodeBlocked, why: why}
	if kind == dns.TypeTXT {
		r.rcode = dns.RcodeSuccess
		r.records = []dns.RR{text(name, why)}
	}
	return r
}

func text(name, words string) *dns.TXT {
	const most = 255 // bytes of one string, RFC 1035 section 3.3.14
	t := &dns.TXT{Hdr: header(name, dns.TypeTXT, negativeTTL)}
	for len(words) > most {
		t.Txt, words = append(t.Txt, words[:most]), words[most:]
	}
	t.Txt = append(t.Txt, words)
	return t
}

func header(name string, kind uint16, ttl time.Duration) dns.RR_Header {
	return dns.RR_Header{Name: dns.Fqdn(name), Rrtype: kind, Class: dns.ClassINET, Ttl: uint32(ttl / time.Second)}
}

// failure is the answer where the name servers gave none.
func failure(code uint16, why string) reply {
	return reply{rcode: dns.RcodeServerFailure, code: code, why: why}
}

// nothing says that the name is there without records of that type.
func nothing(why string) reply {
	return reply{rcode: dns.RcodeSuccess, ttl: negativeTTL, code: dns.ExtendedErrorCodeFiltered, why: why}
}

// chain is the part of an answer that belongs to the question: the CNAMEs from
// the name that was asked, and the records of the type at their end.
type chain struct {
	rcode   int
	records []dns.RR
	ttl     time.Duration
}

// follow takes from an answer what follows from the question. All else in it
// was not asked for and is left out.
func follow(name string, kind uint16, answer *dns.Msg) chain {
	c := chain{rcode: answer.Rcode, ttl: maxTTL}
	at := dns.CanonicalName(name)
	for range maxChain {
		next := ""
		for _, rr := range answer.Answer {
			h := rr.Header()
			if h.Class != dns.ClassINET || dns.CanonicalName(h.Name) != at || len(c.records) >= maxRecords {
				continue
			}
			cname, isCNAME := rr.(*dns.CNAME)
			if h.Rrtype != kind && !isCNAME {
				continue
			}
			c.add(rr)
			if isCNAME && kind != dns.TypeCNAME && next == "" {
				next = dns.CanonicalName(cname.Target)
			}
		}
		if next == "" {
			break
		}
		at = next
	}
	if len(c.records) == 0 {
		c.ttl = negativeFor(answer)
	}
	return c
}

func (c *chain) add(rr dns.RR) {
	c.records = append(c.records, dns.Copy(rr))
	c.ttl = min(c.ttl, time.Duration(rr.Header().Ttl)*time.Second)
}

// negativeFor is how long there may be nothing (RFC 2308, section 5).
func negativeFor(answer *dns.Msg) time.Duration {
	for _, rr := range answer.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(time.Duration(min(soa.Minttl, soa.Hdr.Ttl))*time.Second, time.Minute)
		}
	}
	return negativeTTL
}

// filtered is what a guest may see of a chain, and the addresses in it. Where
// every address is refused, so is the name.
func (r *rules) filtered(g *guest, name string, kind uint16, c chain) (reply, []netip.Addr) {
	out := reply{rcode: c.rcode, ttl: clampTTL(c.ttl)}
	var addresses []netip.Addr
	var refused Verdict
	for _, rr := range c.records {
		rr = dns.Copy(rr)
		rr.Header().Ttl = uint32(out.ttl / time.Second)
		if a, ok := rr.(*dns.A); ok {
			ip, _ := netip.AddrFromSlice(a.A)
			ip = ip.Unmap()
			if v := r.reach(g, name, ip, 0); !v.Allowed {
				refused = v
				continue
			}
			addresses = append(addresses, ip)
		}
		out.records = append(out.records, rr)
	}
	if refused.Reason != "" && len(addresses) == 0 {
		return refusal(name, kind, refused.Reason), nil
	}
	return out, addresses
}

// message makes the answer to a query of a reply.
func (r reply) message(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(q, r.rcode)
	m.RecursionAvailable = true
	m.Compress = true
	m.Answer = r.records
	if len(r.records) == 0 && (r.rcode == dns.RcodeNameError || r.rcode == dns.RcodeSuccess) {
		m.Ns = []dns.RR{authority(q.Question[0].Name, max(r.ttl, negativeTTL))}
	}
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(udpSize, false)
		if r.why != "" {
			out := m.IsEdns0()
			out.Option = append(out.Option, &dns.EDNS0_EDE{InfoCode: r.code, ExtraText: r.why})
		}
	}
	return m
}

// authority lets a guest remember that there is nothing, and for how long.
func authority(name string, ttl time.Duration) *dns.SOA {
	return &dns.SOA{
		Hdr: header(name, dns.TypeSOA, ttl), Ns: dns.Fqdn(spec.EgressName), Mbox: "egress." + dns.Fqdn(spec.EgressName),
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: uint32(ttl / time.Second),
	}
}
