package egress

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// BenchmarkProxy passes a stream from the internet to the guest by TLS's port,
// its hello included, through the proxy.
func BenchmarkProxy(b *testing.B) {
	if !inNamespace(b) {
		return
	}
	s := newStage(b)
	newWorld(b, s)
	s.set(b, allowlist(b, "allowed.test:9000"))
	s.resolved(b, "allowed.test", siteIP)
	const chunk = 1 << 20
	s.internet.in(b, func() error {
		listen(b, "9000", func(l net.Listener) {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					block := make([]byte, chunk)
					for err == nil {
						_, err = c.Write(block)
					}
				}()
			}
		})
		return nil
	})
	c, err := s.dial(b, siteIP+":9000")
	must(b, err)
	_, err = c.Write([]byte("\x00raw"))
	must(b, err)
	must(b, c.SetDeadline(time.Now().Add(time.Minute)))
	block := make([]byte, chunk)
	b.SetBytes(chunk)
	for b.Loop() {
		if _, err := io.ReadFull(c, block); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDNS asks for a few names again and again, one question at a time from
// each of eight sockets.
func BenchmarkDNS(b *testing.B) {
	if !inNamespace(b) {
		return
	}
	s := newStage(b)
	newWorld(b, s)
	s.set(b, allowlist(b, "*.wild.test"))
	b.Run("udp", func(b *testing.B) { s.askAll(b) })
}

func (s *stage) askAll(b *testing.B) {
	b.SetParallelism(4)
	b.RunParallel(func(p *testing.PB) {
		var c *dns.Conn
		s.guest.in(b, func() (err error) {
			c, err = dns.DialTimeout("udp", dnsIP, time.Second)
			return err
		})
		defer c.Close()
		for n := 0; p.Next(); n++ {
			q := new(dns.Msg)
			q.SetQuestion(fmt.Sprintf("n%d.wild.test.", n%16), dns.TypeA)
			must(b, c.SetDeadline(time.Now().Add(5*time.Second)))
			if err := c.WriteMsg(q); err != nil {
				b.Fatal(err)
			}
			if m, err := c.ReadMsg(); err != nil || len(m.Answer) != 1 {
				b.Fatal(err, m)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "answers/s")
}
