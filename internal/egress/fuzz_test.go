package egress

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"bield/internal/spec"
)

// realHello is a ClientHello of Go's client.
func realHello(t testing.TB, name string) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	go func() {
		_ = tls.Client(client, &tls.Config{ServerName: name, InsecureSkipVerify: true}).HandshakeContext(context.Background())
	}()
	b := make([]byte, 16<<10)
	must(t, server.SetDeadline(time.Now().Add(5*time.Second)))
	n, err := server.Read(b)
	must(t, err)
	return b[:n]
}

// cut puts the handshake message of one record into records of n bytes.
func cut(record []byte, n int) []byte {
	var out []byte
	for body := record[recordHeader:]; len(body) > 0; {
		part := body[:min(n, len(body))]
		body = body[len(part):]
		out = append(out, recordHandshake, 3, 1)
		out = binary.BigEndian.AppendUint16(out, uint16(len(part)))
		out = append(out, part...)
	}
	return out
}

func TestParseHello(t *testing.T) {
	whole := realHello(t, "allowed.test")
	for _, b := range [][]byte{whole, cut(whole, len(whole)/3)} {
		h, need, err := parseHello(b)
		if err != nil || need != 0 || h.name != "allowed.test" || h.hidden {
			t.Errorf("got %+v, %d, %v", h, need, err)
		}
		for n := range len(b) {
			if _, need, err := parseHello(b[:n]); err != nil || need <= n {
				t.Fatalf("after %d bytes: need %d, %v", n, need, err)
			}
		}
	}
	if _, _, err := parseHello(cut(whole, 1)); err == nil {
		t.Error("a hello in records of a byte is read on and on")
	}
	if h, _, err := parseHello(realHello(t, "")); err != nil || h.name != "" {
		t.Errorf("without a name: %+v, %v", h, err)
	}
}

func TestHelloTricks(t *testing.T) {
	name := func(kind byte, names ...string) []byte {
		var list []byte
		for _, n := range names {
			list = append(list, kind)
			list = binary.BigEndian.AppendUint16(list, uint16(len(n)))
			list = append(list, n...)
		}
		return append(binary.BigEndian.AppendUint16(nil, uint16(len(list))), list...)
	}
	one := func(kind uint16, data []byte) []byte {
		b := binary.BigEndian.AppendUint16(nil, kind)
		b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
		return append(b, data...)
	}
	for what, c := range map[string]struct {
		extensions []byte
		ok         bool
	}{
		"one name":        {one(extServerName, name(hostName, "a.test")), true},
		"two names":       {one(extServerName, name(hostName, "a.test", "b.test")), false},
		"two extensions":  {append(one(extServerName, name(hostName, "a.test")), one(extServerName, name(hostName, "b.test"))...), false},
		"another type":    {one(extServerName, name(1, "a.test")), false},
		"address":         {one(extServerName, name(hostName, "9.9.9.9")), false},
		"final dot":       {one(extServerName, name(hostName, "a.test.")), false},
		"zero byte":       {one(extServerName, name(hostName, "a.test\x00.b.test")), false},
		"empty":           {one(extServerName, name(hostName, "")), false},
		"bytes behind it": {one(extServerName, append(name(hostName, "a.test"), 0)), false},
	} {
		h, err := readHello(helloBody(c.extensions))
		if (err == nil) != c.ok || c.ok && h.name != "a.test" {
			t.Errorf("%s: %+v, %v", what, h, err)
		}
	}
	for _, kind := range []uint16{extECH, extESNI} {
		if h, err := readHello(helloBody(one(kind, []byte{0}))); err != nil || !h.hidden {
			t.Errorf("an encrypted name is not seen: %+v, %v", h, err)
		}
	}
}

func helloBody(extensions []byte) []byte {
	b := append([]byte{3, 3}, make([]byte, 32)...)
	b = append(b, 0, 0, 2, 0x13, 1, 1, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(extensions)))
	return append(b, extensions...)
}

func FuzzClientHello(f *testing.F) {
	whole := realHello(f, "allowed.test")
	f.Add(whole)
	f.Add(cut(whole, 200))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, need, err := parseHello(b)
		switch {
		case need < 0 || need > 0 && (need <= len(b) || err != nil):
			t.Fatalf("needs %d of %d, %v", need, len(b), err)
		case need > maxHelloRecords*(recordHeader+maxRecord):
			t.Fatalf("needs %d", need)
		}
		if h.name == "" || err != nil {
			return
		}
		if clean, err := cleanName(h.name); err != nil || clean != h.name {
			t.Fatalf("name %q", h.name)
		}
		// What it read stands there literally: no other reader sees another name.
		if !bytes.Contains(bytes.ToLower(joined(b)), []byte(h.name)) {
			t.Fatalf("name %q is not in it", h.name)
		}
	})
}

// joined is the message without the heads of its records.
func joined(b []byte) []byte {
	var out []byte
	for len(b) >= recordHeader {
		n := recordHeader + int(binary.BigEndian.Uint16(b[3:]))
		if n > len(b) {
			break
		}
		out = append(out, b[recordHeader:n]...)
		b = b[n:]
	}
	return out
}

func FuzzNFLOG(f *testing.F) {
	ip := append([]byte{0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 192, 168, 83, 2, 9, 9, 8, 1}, 0x12, 0x34, 0x01, 0xbb)
	f.Add(logged(ip, "bield"))
	f.Add(append(logged(ip, ""), logged(ip[:20], "x")...))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, p := range parseLog(b) {
			if !p.from.Is4() || !p.to.Is4() || p.kind == "" || p.port != 0 && p.kind != "tcp" && p.kind != "udp" {
				t.Fatalf("packet %+v", p)
			}
			if strings.ContainsFunc(p.prefix, func(c rune) bool { return c < ' ' || c > '~' }) {
				t.Fatalf("prefix %q", p.prefix)
			}
		}
	})
}

func logged(ip []byte, prefix string) []byte {
	body := append([]byte{2, 0, 0, 0}, attr(nflogPrefix, append([]byte(prefix), 0))...)
	body = append(body, attr(nflogPayload, ip)...)
	b := binary.NativeEndian.AppendUint32(nil, uint32(nlHeader+len(body)))
	b = binary.NativeEndian.AppendUint16(b, nflogSubsystem<<8|nflogPacket)
	b = append(b, make([]byte, nlHeader-6)...)
	return append(b, body...)
}

func TestParseLog(t *testing.T) {
	ip := append([]byte{0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0, 192, 168, 83, 2, 9, 9, 8, 1}, 0x12, 0x34, 0x01, 0xbb)
	got := parseLog(append(logged(ip, "why"), logged(ip, "")...))
	if len(got) != 2 || got[0].kind != "udp" || got[0].port != 443 || got[0].prefix != "why" || got[0].to.String() != siteIP {
		t.Errorf("got %+v", got)
	}
	fragment := bytes.Clone(ip)
	fragment[7] = 8
	if got := parseLog(logged(fragment, "")); len(got) != 1 || got[0].port != 0 {
		t.Errorf("a later fragment: %+v", got)
	}
}

// fakeWriter is a guest that takes answers.
type fakeWriter struct {
	dns.ResponseWriter
	from net.Addr
	got  *dns.Msg
}

func (w *fakeWriter) RemoteAddr() net.Addr { return w.from }

func (w *fakeWriter) WriteMsg(m *dns.Msg) error {
	w.got = m
	return nil
}

// upstreamOf answers what the bytes say, and whatever was asked.
func fuzzResolver(t testing.TB, answer func(q []byte) []byte) *resolver {
	c := newCore(t.Context(), slog.New(slog.DiscardHandler))
	c.own = func(netip.Addr) bool { return false }
	r := newResolver(c)
	r.asks, r.free = newBuckets(1e9, 1e9), newBuckets(1e9, 1e9)
	c.set(Policy{
		Gateway: netip.MustParseAddr(gatewayIP), Subnet: netip.MustParsePrefix("192.168.83.0/24"),
		Nameservers: []netip.AddrPort{netip.MustParseAddrPort(dnsIP)},
		VMs: []VM{{Name: "claude", IP: netip.MustParseAddr(guestIP), Egress: spec.Egress{
			Mode: spec.EgressAllowlist, Names: targets(t, "allowed.test", "*.wild.test"),
		}}},
	})
	r.upstream.port = func(context.Context, string, netip.AddrPort) (net.Conn, error) {
		return &scripted{answer: answer}, nil
	}
	return r
}

// scripted is a connection to a name server that answers once.
type scripted struct {
	net.Conn
	answer func(q []byte) []byte
	left   []byte
}

func (s *scripted) Write(b []byte) (int, error) {
	s.left = s.answer(b)
	return len(b), nil
}

func (s *scripted) Read(b []byte) (int, error) {
	if s.left == nil {
		return 0, net.ErrClosed
	}
	n := copy(b, s.left)
	s.left = nil
	return n, nil
}

func (s *scripted) Close() error                              { return nil }
func (s *scripted) SetDeadline(time.Time) error               { return nil }
func (s *scripted) LocalAddr() net.Addr                       { return &net.UDPAddr{} }
func (s *scripted) RemoteAddr() net.Addr                      { return &net.UDPAddr{} }
func (s *scripted) ReadFrom([]byte) (int, net.Addr, error)    { return 0, nil, net.ErrClosed }
func (s *scripted) WriteTo(b []byte, _ net.Addr) (int, error) { return s.Write(b) }

func FuzzDNS(f *testing.F) {
	q := new(dns.Msg)
	q.SetQuestion("allowed.test.", dns.TypeA)
	query, err := q.Pack()
	must(f, err)
	m := new(dns.Msg)
	m.SetReply(q)
	for _, text := range []string{"allowed.test. 60 IN CNAME other.test.", "other.test. 60 IN A 9.9.8.1", "other.test. 1 IN A 10.0.0.1", "x.test. 1 IN TXT a"} {
		rr, err := dns.NewRR(text)
		must(f, err)
		m.Answer = append(m.Answer, rr)
	}
	answer, err := m.Pack()
	must(f, err)
	f.Add(query, answer[12:])
	q.SetQuestion("x.wild.test.", dns.TypeTXT)
	query, err = q.Pack()
	must(f, err)
	f.Add(query, []byte{})
	f.Fuzz(func(t *testing.T, query, body []byte) {
		message := new(dns.Msg)
		if message.Unpack(query) != nil {
			return
		}
		var asked [][]byte
		r := fuzzResolver(t, func(q []byte) []byte {
			asked = append(asked, bytes.Clone(q))
			// An answer with the right id and question; the rest is as it comes.
			head := append(bytes.Clone(q[:2]), 0x81, 0x80, 0, 1, 0, 4, 0, 1, 0, 0)
			return append(append(head, q[12:len(q)-11]...), body...)
		})
		w := &fakeWriter{from: &net.UDPAddr{IP: net.ParseIP(guestIP), Port: 1000}}
		r.ServeDNS(w, message)
		for _, q := range asked {
			checkAsked(t, q)
		}
		if w.got != nil {
			checkAnswer(t, r, w.got)
		}
	})
}

// checkAsked: nothing leaves but allowed names and two types.
func checkAsked(t *testing.T, q []byte) {
	t.Helper()
	m := new(dns.Msg)
	must(t, m.Unpack(q))
	name := strings.ToLower(m.Question[0].Name)
	if kind := m.Question[0].Qtype; kind != dns.TypeA && kind != dns.TypeCNAME {
		t.Fatalf("type %d went out", kind)
	}
	if name != "allowed.test." && !strings.HasSuffix(name, ".wild.test.") {
		t.Fatalf("%s went out", name)
	}
}

// checkAnswer: it can be sent, and no address in it is a forbidden one.
func checkAnswer(t *testing.T, r *resolver, m *dns.Msg) {
	t.Helper()
	if _, err := m.Pack(); err != nil {
		t.Fatalf("the answer can't be sent: %v\n%v", err, m)
	}
	rules := r.rules.Load()
	for _, rr := range m.Answer {
		a, ok := rr.(*dns.A)
		if !ok {
			continue
		}
		ip, _ := netip.AddrFromSlice(a.A)
		if ip = ip.Unmap(); !rules.public(ip) && ip != rules.policy.Gateway {
			t.Fatalf("answer with %s", ip)
		}
	}
}
