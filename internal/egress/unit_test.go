package egress

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"bield/internal/spec"
)

func TestReach(t *testing.T) {
	policy := Policy{Gateway: netip.MustParseAddr(gatewayIP), Subnet: netip.MustParsePrefix("192.168.83.0/24")}
	own := func(a netip.Addr) bool { return a == netip.MustParseAddr("203.0.114.7") }
	for _, c := range []struct {
		mode       spec.EgressMode
		names      string
		allow      string
		name, addr string
		port       uint16
		want       bool
	}{
		{mode: "open", addr: "10.0.0.1", port: 22, want: true},
		{mode: "open", addr: gatewayIP, port: 22},
		{mode: "open", addr: "203.0.114.7", port: 22},
		{mode: "public", addr: "1.1.1.1", port: 22, want: true},
		{mode: "", addr: "1.1.1.1", port: 22, want: true},
		{mode: "public", addr: "203.0.114.7", port: 22},
		{mode: "public", addr: "100.64.0.1", port: 80},
		{mode: "public", addr: "169.254.169.254", port: 80},
		{mode: "public", allow: "169.254.169.254", addr: "169.254.169.254", port: 80, want: true},
		{mode: "public", allow: "a.test", name: "a.test", addr: "169.254.169.254", port: 80},
		{mode: "public", allow: "a.test", name: "a.test", addr: "10.1.1.1", port: 80, want: true},
		{mode: "public", allow: "a.test:443", name: "a.test", addr: "10.1.1.1", port: 80},
		{mode: "public", names: "a.test", name: "a.test", addr: "10.1.1.1", port: 80},
		{mode: "allowlist", names: "a.test", name: "a.test", addr: "1.1.1.1", port: 443, want: true},
		{mode: "allowlist", names: "a.test", name: "a.test", addr: "1.1.1.1", port: 22},
		{mode: "allowlist", names: "a.test:22", name: "a.test", addr: "1.1.1.1", port: 22, want: true},
		{mode: "allowlist", names: "a.test:22", name: "a.test", addr: "1.1.1.1", port: 443},
		{mode: "allowlist", names: "a.test", name: "b.a.test", addr: "1.1.1.1", port: 443},
		{mode: "allowlist", names: "*.a.test", name: "c.b.a.test", addr: "1.1.1.1", port: 443, want: true},
		{mode: "allowlist", names: "*.a.test", name: "a.test", addr: "1.1.1.1", port: 443},
		{mode: "allowlist", names: "*.a.test", name: "ba.test", addr: "1.1.1.1", port: 443},
		{mode: "allowlist", names: "a.test", addr: "1.1.1.1", port: 443},
		{mode: "allowlist", names: "a.test", name: "a.test", addr: "::ffff:1.1.1.1", port: 443},
		{mode: "none", names: "a.test", name: "a.test", addr: "1.1.1.1", port: 443},
		{mode: "none", allow: "a.test", name: "a.test", addr: "1.1.1.1", port: 9, want: true},
		{mode: "none", allow: "10.0.0.0/8:443", addr: "10.2.3.4", port: 443, want: true},
		{mode: "none", allow: "10.0.0.0/8:443", addr: "10.2.3.4", port: 444},
		{mode: "none", allow: "192.168.0.0/16", addr: "192.168.83.9", port: 80},
	} {
		e := spec.Egress{Mode: c.mode}
		if c.names != "" {
			e.Names = targets(t, c.names)
		}
		if c.allow != "" {
			e.Allow = targets(t, c.allow)
		}
		policy.VMs = []VM{{Name: "v", IP: netip.MustParseAddr(guestIP), Egress: e}}
		r := newRules(policy, own)
		v := r.reach(r.byName["v"], c.name, netip.MustParseAddr(c.addr), c.port)
		if v.Allowed != c.want || v.Allowed == (v.Reason != "") || v.Allowed != (v.Rule != "") {
			t.Errorf("%+v: %+v", c, v)
		}
	}
}

// TestMirror: a name that the host's own configuration gave may be private.
func TestMirror(t *testing.T) {
	mirror := target1(t, "mirror.test")
	mirror.Private = true
	r := newRules(Policy{VMs: []VM{{Name: "v", IP: netip.MustParseAddr(guestIP), Egress: spec.Egress{
		Mode: spec.EgressAllowlist, Names: []spec.Target{mirror},
	}}}}, func(netip.Addr) bool { return false })
	if v := r.reach(r.byName["v"], "mirror.test", netip.MustParseAddr("10.1.1.1"), 443); !v.Allowed {
		t.Error(v.Reason)
	}
}

func TestRecords(t *testing.T) {
	now := time.Now()
	r := newRecords()
	r.now = func() time.Time { return now }
	a, b := netip.MustParseAddr("1.1.1.1"), netip.MustParseAddr("2.2.2.2")
	r.add("v", "a.test", []netip.Addr{a}, time.Minute)
	r.add("v", "b.test", []netip.Addr{a, b}, 0)
	all := func(string) bool { return true }
	if !r.has("v", "a.test", a) || r.has("v", "a.test", b) || r.has("w", "a.test", a) {
		t.Error("records do not keep names and VMs apart")
	}
	now = now.Add(minTTL + ttlGrace + time.Second)
	if _, ok := r.find("v", b, all); ok || r.has("v", "b.test", a) {
		t.Error("an address counts beyond its time")
	}
	if name, ok := r.find("v", a, all); !ok || name != "a.test" {
		t.Errorf("found %q", name)
	}
	for n := range maxRecordedNames + 5 {
		r.add("v", fmt.Sprintf("n%d.test", n), []netip.Addr{b}, time.Minute)
	}
	if v := r.vms["v"]; v.names.order.Len() != maxRecordedNames || len(v.byAddress[b]) != maxRecordedNames || v.byAddress[a] != nil {
		t.Errorf("%d names, %d of an address", v.names.order.Len(), len(v.byAddress[b]))
	}
	many := make([]netip.Addr, 2*maxAddresses)
	for n := range many {
		many[n] = netip.AddrFrom4([4]byte{9, 9, 9, byte(n)})
	}
	r.add("v", "many.test", many, time.Minute)
	if r.has("v", "many.test", many[maxAddresses]) || !r.has("v", "many.test", many[0]) {
		t.Error("the addresses of a name are not bounded")
	}
	r.keep(func(string) bool { return false })
	if r.has("v", "n7.test", b) {
		t.Error("a VM that went is remembered")
	}
}

func TestSlots(t *testing.T) {
	s := newSlots(8, 6)
	took := 0
	for s.take("a") {
		took++
	}
	if took != 4 || !s.take("b") || !s.take("b") || s.take("b") {
		t.Errorf("one VM took %d of 8", took)
	}
	s.give("a")
	if !s.take("b") {
		t.Error("a place that was given back is not there")
	}
}

func TestOwnAddressesFailClosed(t *testing.T) {
	o := newOwnAddresses()
	o.read = func() ([]net.Addr, error) { return nil, net.ErrClosed }
	if !o.has(netip.MustParseAddr("1.1.1.1")) {
		t.Error("an address is taken for another machine's while the own are not known")
	}
}

// TestForgedAnswers: what is not the answer to the question is passed over.
func TestForgedAnswers(t *testing.T) {
	q := question("Allowed.tesT", dns.TypeA)
	for what, change := range map[string]func(*dns.Msg){
		"id":       func(m *dns.Msg) { m.Id++ },
		"name":     func(m *dns.Msg) { m.Question[0].Name = "other.test." },
		"type":     func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeTXT },
		"query":    func(m *dns.Msg) { m.Response = false },
		"question": func(m *dns.Msg) { m.Question = nil },
	} {
		m := new(dns.Msg)
		m.SetReply(q)
		change(m)
		if ok, _ := answers(q, m); ok {
			t.Errorf("another %s is taken", what)
		}
	}
	m := new(dns.Msg)
	m.SetReply(q)
	if ok, err := answers(q, m); !ok || err != nil {
		t.Errorf("the answer is not: %v", err)
	}
	m.Question[0].Name = strings.ToLower(m.Question[0].Name)
	if ok, err := answers(q, m); !ok || !errors.Is(err, errOtherCase) {
		t.Errorf("another case: %v", err)
	}
}

func TestStartsHTTP(t *testing.T) {
	for text, want := range map[string]bool{
		"GET / HTTP/1.1\r\n": true, "G": true, "GET /": true, "get / http/1.0\n": true, "X-1 /a b HTTP/1.1\r\n": true, "\r\nGET /": true,
		"SSH-2.0-OpenSSH_9.2p1 Debian\r\n": false, "PING\r\n": false, "\x00\x00\x00\x08": false, "*1\r\n": false, "EHLO a.test\r\n": false,
	} {
		if startsHTTP([]byte(text)) != want {
			t.Errorf("%q: not %v", text, want)
		}
	}
}

func TestPolicyCheck(t *testing.T) {
	good := Policy{
		Gateway: netip.MustParseAddr(gatewayIP), Subnet: netip.MustParsePrefix("192.168.83.0/24"),
		VMs: []VM{{Name: "v", IP: netip.MustParseAddr(guestIP), Egress: spec.Egress{Names: targets(t, "a.test")}}},
	}
	must(t, good.Check())
	for what, change := range map[string]func(*Policy){
		"gateway": func(p *Policy) { p.Gateway = netip.MustParseAddr("1.1.1.1") },
		"twice":   func(p *Policy) { p.VMs = append(p.VMs, p.VMs[0]) },
		"address": func(p *Policy) { p.VMs[0].IP = p.Gateway },
		"mode":    func(p *Policy) { p.VMs[0].Egress.Mode = "some" },
		"target":  func(p *Policy) { p.VMs[0].Egress.Allow = []spec.Target{{Name: "A.test"}} },
		"server":  func(p *Policy) { p.Nameservers = []netip.AddrPort{{}} },
	} {
		bad := good
		bad.VMs = append([]VM(nil), good.VMs...)
		change(&bad)
		if bad.Check() == nil {
			t.Errorf("a bad %s is taken", what)
		}
	}
}

func TestDenialsAreBounded(t *testing.T) {
	d := newDenials()
	for n := range maxDenials + 10 {
		d.add(Denial{VM: "v", Kind: "dns", Name: fmt.Sprintf("n%d.test", n), Reason: "r"})
	}
	d.add(Denial{VM: "v", Kind: "dns", Name: "n1009.test", Reason: "r"})
	list, next, _ := d.since(0, "v")
	if len(list) != maxDenials || list[len(list)-1].Count != 2 || list[len(list)-1].Name != "n1009.test" {
		t.Errorf("%d kept, the last %+v", len(list), list[len(list)-1])
	}
	if again, _, _ := d.since(next, ""); len(again) != 0 {
		t.Errorf("%d are new without being so", len(again))
	}
}
