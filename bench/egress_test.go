package bench

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"bield/internal/egress"
	"bield/internal/firewall"
	"bield/internal/process"
	"bield/internal/spec"
	"bield/test/host"
)

// Where things are: a guest's namespace, the host's, and one that plays the
// internet. All are of the test's own.
const (
	internetAddress = "11.22.33.1"
	dataPort        = 9000
	dataName        = "data.example"
	labBridge       = "microbr"
	labGuests       = 4
)

// lab is a host with rules, the real egress process, and guests that are
// namespaces behind what the rules take for their taps.
type lab struct {
	internet netns.NsHandle
	guests   []netns.NsHandle
	config   firewall.Config
	client   *egress.Client
	policy   egress.Policy
}

// newLab makes the calling thread the host, for good.
func newLab(b *testing.B) *lab {
	b.Helper()
	host.Require(b)
	runtime.LockOSThread() // and never unlocked: the thread ends with the benchmark
	must(b, unix.Unshare(unix.CLONE_NEWNET))
	l := &lab{}
	must(b, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: labBridge}}
	must(b, netlink.LinkAdd(bridge))
	up(b, labBridge, "192.168.83.1/24")
	up(b, "lo", "")
	l.internet = space(b)
	l.join(b, "ext0", l.internet, "02:00:00:03:00:01", internetAddress+"/24", "")
	up(b, "ext0", "11.22.33.2/24")
	gateway, subnet := netip.MustParseAddr("192.168.83.1"), netip.MustParsePrefix("192.168.83.0/24")
	l.config = firewall.Config{Owner: "bield bench", Bridge: labBridge, Gateway: gateway, Subnet: subnet}
	l.policy = egress.Policy{Gateway: gateway, Subnet: subnet, Nameservers: []netip.AddrPort{netip.MustParseAddrPort(internetAddress + ":53")}}
	for i := range labGuests {
		l.addGuest(b, i, bridge)
	}
	l.serveInternet(b)
	l.startEgress(b)
	return l
}

func (l *lab) addGuest(b *testing.B, i int, bridge netlink.Link) {
	b.Helper()
	tap, mac, ip := fmt.Sprintf("mv%d", i), fmt.Sprintf("02:00:00:01:00:%02x", i), fmt.Sprintf("192.168.83.%d", 2+i)
	ns := space(b)
	l.join(b, tap, ns, mac, ip+"/24", "192.168.83.1")
	link, err := netlink.LinkByName(tap)
	must(b, err)
	must(b, netlink.LinkSetMaster(link, bridge))
	up(b, tap, "")
	l.guests = append(l.guests, ns)
	l.config.VMs = append(l.config.VMs, firewall.VM{Tap: tap, MAC: mac, IP: netip.MustParseAddr(ip)})
	l.policy.VMs = append(l.policy.VMs, egress.VM{Name: tap, IP: netip.MustParseAddr(ip)})
}

// space makes a namespace beside the thread's own.
func space(b *testing.B) netns.NsHandle {
	b.Helper()
	made := make(chan netns.NsHandle)
	go func() {
		runtime.LockOSThread()
		ns, _ := netns.New()
		made <- ns
	}()
	ns := <-made
	if !ns.IsOpen() {
		b.Fatal("no network namespace could be made")
	}
	b.Cleanup(func() { ns.Close() })
	return ns
}

// in runs f on a thread in a namespace.
func in(b *testing.B, ns netns.NsHandle, f func() error) {
	b.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(ns); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	must(b, <-done)
}

// join lays a cable from name, here, to eth0 in a namespace.
func (l *lab) join(b *testing.B, name string, ns netns.NsHandle, mac, address, gateway string) {
	b.Helper()
	hw, err := net.ParseMAC(mac)
	must(b, err)
	must(b, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerHardwareAddr: hw, PeerNamespace: netlink.NsFd(int(ns))}))
	in(b, ns, func() error {
		up(b, "lo", "")
		up(b, "eth0", address)
		if gateway == "" {
			return nil
		}
		return netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)})
	})
}

func up(b *testing.B, name, address string) {
	b.Helper()
	link, err := netlink.LinkByName(name)
	must(b, err)
	if address != "" {
		a, err := netlink.ParseAddr(address)
		must(b, err)
		must(b, netlink.AddrAdd(link, a))
	}
	must(b, netlink.LinkSetUp(link))
}

// serveInternet answers questions for names, and whoever connects with bytes
// without an end.
func (l *lab) serveInternet(b *testing.B) {
	b.Helper()
	var udp net.PacketConn
	var data net.Listener
	in(b, l.internet, func() (err error) {
		if udp, err = net.ListenPacket("udp4", internetAddress+":53"); err != nil {
			return err
		}
		data, err = net.Listen("tcp4", fmt.Sprintf("%s:%d", internetAddress, dataPort))
		return err
	})
	server := &dns.Server{PacketConn: udp, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		answer := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			answer.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 300}, A: net.ParseIP(internetAddress)}}
		}
		_ = w.WriteMsg(answer)
	})}
	go func() { _ = server.ActivateAndServe() }()
	go func() {
		block := make([]byte, 256<<10)
		for {
			conn, err := data.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for {
					if _, err := conn.Write(block); err != nil {
						return
					}
				}
			}()
		}
	}()
	b.Cleanup(func() { _ = server.Shutdown(); data.Close() })
}

func (l *lab) startEgress(b *testing.B) {
	b.Helper()
	dir := b.TempDir()
	sockets, err := egress.Open(b.Context(), l.config.Gateway, filepath.Join(dir, "egress.sock"), spec.EgressLogGroup)
	must(b, err)
	defer sockets.Close()
	p, err := process.Start(b.Context(), process.Command{
		Path: host.Bin("bieldd"), Args: []string{"egress"}, UID: spec.EgressUID, GID: spec.EgressUID,
		Files: sockets.Files, LogPath: filepath.Join(dir, "log"), MaxFiles: 1 << 16,
	})
	must(b, err)
	b.Cleanup(func() { _ = p.Stop(context.Background(), time.Second) })
	l.config.Ports = firewall.Ports(sockets.Ports)
	l.client = egress.NewClient(filepath.Join(dir, "egress.sock"))
	b.Cleanup(l.client.Close)
}

// set gives every guest what it may reach.
func (l *lab) set(b *testing.B, e spec.Egress) {
	b.Helper()
	for i := range l.config.VMs {
		l.config.VMs[i].Egress, l.policy.VMs[i].Egress = e, e
	}
	_, err := l.client.Set(b.Context(), l.policy)
	must(b, err)
	must(b, firewall.Set(b.Context(), l.config))
}

// ask resolves a name as a guest, whatever server it asks.
func (l *lab) ask(conn *dns.Conn, name string) error {
	query := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA)
	answer, _, err := (&dns.Client{Timeout: 5 * time.Second}).ExchangeWithConn(query, conn)
	if err == nil && len(answer.Answer) == 0 {
		err = fmt.Errorf("no address of %s: %s", name, dns.RcodeToString[answer.Rcode])
	}
	return err
}

func (l *lab) dialDNS(b *testing.B, ns netns.NsHandle) *dns.Conn {
	b.Helper()
	var conn net.Conn
	in(b, ns, func() (err error) { conn, err = net.Dial("udp4", internetAddress+":53"); return err })
	b.Cleanup(func() { conn.Close() })
	return &dns.Conn{Conn: conn}
}

// measured is how long a guest takes bytes from the internet.
const measured = time.Second

// download returns the bytes a second that a guest gets over one connection.
func (l *lab) download(b *testing.B, ns netns.NsHandle) float64 {
	b.Helper()
	must(b, l.ask(l.dialDNS(b, ns), dataName))
	var conn net.Conn
	in(b, ns, func() (err error) {
		conn, err = net.DialTimeout("tcp4", fmt.Sprintf("%s:%d", internetAddress, dataPort), 5*time.Second)
		return err
	})
	defer conn.Close()
	block := make([]byte, 256<<10)
	must(b, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, err := io.ReadFull(conn, block) // it is let through
	must(b, err)
	began, total := time.Now(), 0
	for time.Since(began) < measured {
		n, err := conn.Read(block)
		must(b, err)
		total += n
	}
	return float64(total) / time.Since(began).Seconds()
}

// BenchmarkEgressTCP is what one TCP connection of a guest's carries in each mode
// as a ratio to open, where the kernel alone forwards: allowlist goes through the
// egress process. Medians of rounds that take turns.
func BenchmarkEgressTCP(b *testing.B) {
	l := newLab(b)
	address := spec.Target{Prefix: netip.MustParsePrefix(internetAddress + "/32"), Port: dataPort}
	name := spec.Target{Name: dataName, Port: dataPort}
	modes := []struct {
		name   string
		egress spec.Egress
	}{
		{"open", spec.Egress{Mode: spec.EgressOpen}},
		{"public", spec.Egress{Mode: spec.EgressPublic}},
		{"none-allow-address", spec.Egress{Mode: spec.EgressNone, Allow: []spec.Target{address}}},
		{"allowlist", spec.Egress{Mode: spec.EgressAllowlist, Names: []spec.Target{name}}},
	}
	rates := map[string][]float64{}
	for b.Loop() {
		for range 3 {
			for _, m := range modes {
				if m.name == "none-allow-address" {
					m.egress.Allow = append(m.egress.Allow, name) // or its name does not resolve
				}
				l.set(b, m.egress)
				rates[m.name] = append(rates[m.name], l.download(b, l.guests[0]))
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	open := median(rates["open"])
	b.ReportMetric(open/1e6, "open-MB/s")
	for _, m := range modes[1:] {
		b.ReportMetric(median(rates[m.name])/open, m.name+"/open")
	}
}

// asked is less than a VM may ask at once before it is slowed down.
const asked = 1500

// BenchmarkEgressDNS is how many answers a second the resolver gives to guests
// that ask at once: new names, which it asks a name server for, and then the same
// again.
func BenchmarkEgressDNS(b *testing.B) {
	for b.Loop() {
		l := newLab(b)
		l.set(b, spec.Egress{Mode: spec.EgressPublic})
		ask := func(first, n int) float64 {
			began := time.Now()
			var all sync.WaitGroup
			for i, ns := range l.guests {
				conn := l.dialDNS(b, ns)
				all.Go(func() {
					for k := range n {
						if err := l.ask(conn, fmt.Sprintf("n%d.g%d.example", first+k, i)); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			return float64(n*len(l.guests)) / time.Since(began).Seconds()
		}
		b.ReportMetric(ask(0, asked/2), "new/s")
		b.ReportMetric(ask(0, asked/2), "known/s")
	}
	b.ReportMetric(0, "ns/op")
}
