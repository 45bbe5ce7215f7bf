package egress

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"bield/internal/spec"
)

// world is what the internet of a stage answers.
type world struct {
	mu    sync.Mutex
	zone  map[string][]dns.RR
	asked []string // every question as "name TYPE"
	mute  bool     // the name server does not answer
}

// newWorld starts name server, TLS and HTTP servers, and one that greets.
func newWorld(t testing.TB, s *stage) *world {
	t.Helper()
	w := &world{zone: map[string][]dns.RR{}}
	w.add(t, "allowed.test. 60 IN A "+siteIP, "second.test. 60 IN A "+siteIP, "other.test. 60 IN A "+otherIP,
		"inside.test. 60 IN A "+lanIP, "meta.test. 60 IN A 169.254.169.254", "loop.test. 60 IN A 127.0.0.1",
		"host.test. 60 IN A "+hostIP, "gate.test. 60 IN A "+gatewayIP, "sibling.test. 60 IN A 192.168.83.7",
		"alias.test. 60 IN CNAME other.test.", "other.test. 60 IN TXT \"data out\"", "allowed.test. 60 IN TXT \"data\"",
		"allowed.test. 60 IN AAAA 2001:db8::1", "*.wild.test. 60 IN A "+siteIP)
	certificate := newCertificate(t)
	s.internet.in(t, func() error {
		udp, err := net.ListenPacket("udp", dnsIP)
		must(t, err)
		tcp, err := net.Listen("tcp", dnsIP)
		must(t, err)
		for _, server := range []*dns.Server{{PacketConn: udp, Handler: w}, {Listener: tcp, Handler: w}} {
			go func() { _ = server.ActivateAndServe() }()
			t.Cleanup(func() { _ = server.Shutdown() })
		}
		for _, port := range []string{"80", "8080"} {
			listen(t, port, func(l net.Listener) { _ = http.Serve(l, http.HandlerFunc(site)) })
		}
		for _, port := range []string{"443", "8443"} {
			listen(t, port, func(l net.Listener) {
				_ = http.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate}}), http.HandlerFunc(site))
			})
		}
		listen(t, "22", greet)
		return nil
	})
	return w
}

func listen(t testing.TB, port string, serve func(net.Listener)) {
	t.Helper()
	l, err := net.Listen("tcp", "0.0.0.0:"+port)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go serve(l)
}

// greet is a server that speaks first, and then says back what it hears.
func greet(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.WriteString(c, "SSH-2.0-test\r\n")
			_, _ = io.Copy(c, c)
		}()
	}
}

// site says who it is for; /up changes to a protocol that echoes.
func site(w http.ResponseWriter, r *http.Request) {
	name := r.Host
	if r.TLS != nil {
		name = r.TLS.ServerName
	}
	if r.Header.Get("Upgrade") == "" {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "site %s\n", name)
		return
	}
	c, b, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+r.Header.Get("Upgrade")+"\r\n\r\n")
	_, _ = io.Copy(c, b)
}

func (w *world) add(t testing.TB, records ...string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, text := range records {
		rr, err := dns.NewRR(text)
		must(t, err)
		w.zone[rr.Header().Name] = append(w.zone[rr.Header().Name], rr)
	}
}

// replace gives a name these records alone.
func (w *world) replace(t testing.TB, name string, records ...string) {
	t.Helper()
	w.mu.Lock()
	delete(w.zone, name)
	w.mu.Unlock()
	w.add(t, records...)
}

// ServeDNS answers with records and what their CNAMEs lead to.
func (w *world) ServeDNS(out dns.ResponseWriter, q *dns.Msg) {
	w.mu.Lock()
	defer w.mu.Unlock()
	asked := q.Question[0]
	w.asked = append(w.asked, strings.ToLower(asked.Name)+" "+dns.TypeToString[asked.Qtype])
	if w.mute {
		return
	}
	m := new(dns.Msg)
	m.SetReply(q)
	for name, hops := asked.Name, 0; name != "" && hops < 8; hops++ {
		next := ""
		for _, rr := range w.at(name) {
			cname, is := rr.(*dns.CNAME)
			if is {
				next = cname.Target
			}
			if is || rr.Header().Rrtype == asked.Qtype {
				rr = dns.Copy(rr)
				rr.Header().Name = name
				m.Answer = append(m.Answer, rr)
			}
		}
		name = next
	}
	if len(w.at(asked.Name)) == 0 {
		m.Rcode = dns.RcodeNameError
	}
	_ = out.WriteMsg(m)
}

func (w *world) at(name string) []dns.RR {
	name = strings.ToLower(name)
	if found := w.zone[name]; found != nil {
		return found
	}
	for {
		_, parent, more := strings.Cut(name, ".")
		if !more || w.zone["*."+parent] != nil {
			return w.zone["*."+parent]
		}
		name = parent
	}
}

func (w *world) heard(question string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, asked := range w.asked {
		if strings.Contains(asked, question) {
			return true
		}
	}
	return false
}

func newCertificate(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"allowed.test"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// ask sends a question from the guest, to any name server it likes.
func (s *stage) ask(t testing.TB, network, name string, kind uint16) (*dns.Msg, error) {
	t.Helper()
	var answer *dns.Msg
	var failure error
	s.guest.in(t, func() error {
		c := &dns.Client{Net: network, Timeout: 7 * time.Second}
		q := new(dns.Msg)
		q.SetQuestion(dns.Fqdn(name), kind)
		q.SetEdns0(1232, false)
		answer, _, failure = c.Exchange(q, dnsIP)
		return nil
	})
	return answer, failure
}

// addresses are what the guest's question for a name gives, and why there are none.
func (s *stage) addresses(t testing.TB, name string) (list []string, why string) {
	t.Helper()
	m, err := s.ask(t, "udp", name, dns.TypeA)
	must(t, err)
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			list = append(list, a.A.String())
		}
	}
	return list, extended(m)
}

func extended(m *dns.Msg) string {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				return e.ExtraText
			}
		}
	}
	return ""
}

// resolved asks for a name, and fails unless it has this address.
func (s *stage) resolved(t testing.TB, name, address string) {
	t.Helper()
	if got, why := s.addresses(t, name); len(got) != 1 || got[0] != address {
		t.Fatalf("%s has %v (%s), want %s", name, got, why, address)
	}
}

// get asks a web server by HTTP from the guest: the connection goes to `to`, the
// request is for host. It gives status and text.
func (s *stage) get(t testing.TB, to, host string) (int, string) {
	t.Helper()
	c, err := s.dial(t, to)
	if err != nil {
		return 0, err.Error()
	}
	return request(t, c, bufio.NewReader(c), host)
}

func request(t testing.TB, c net.Conn, in *bufio.Reader, host string) (int, string) {
	t.Helper()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n"); err != nil {
		return 0, err.Error()
	}
	answer, err := http.ReadResponse(in, nil)
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	must(t, err)
	return answer.StatusCode, string(text)
}

// tlsTo makes a TLS connection from the guest with a server name.
func (s *stage) tlsTo(t testing.TB, to, name string) error {
	t.Helper()
	c, err := s.dial(t, to)
	if err != nil {
		return err
	}
	return tls.Client(c, &tls.Config{ServerName: name, InsecureSkipVerify: true}).HandshakeContext(context.Background())
}

// denied fails unless a denial is counted that mentions all of the words.
func (s *stage) denied(t testing.TB, words ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var seen []string
	err := s.client.Log(ctx, "claude", true, func(d Denial) error {
		line := fmt.Sprint(d)
		seen = append(seen, line)
		for _, word := range words {
			if !strings.Contains(line, word) {
				return nil
			}
		}
		return io.EOF
	})
	if !errors.Is(err, io.EOF) {
		t.Errorf("no denial mentions %q (%v); there are:\n%s", words, err, strings.Join(seen, "\n"))
	}
}

func allowlist(t testing.TB, names ...string) spec.Egress {
	t.Helper()
	return spec.Egress{Mode: spec.EgressAllowlist, Names: targets(t, names...)}
}
