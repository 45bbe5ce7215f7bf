package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"bield/test/fakes"
)

// The addresses between this machine and "the internet", from the ranges for
// documentation.
const (
	externalAddress = "203.0.113.2"
	internetGateway = "203.0.113.1"
	internetServer  = "11.22.33.7" // of no special purpose: guests reach it by default
	lanServer       = "10.9.9.9"   // private
	// Names that the server on port 53 of internetServer knows.
	publicName, otherName, privateName = "web.example", "other.example", "lan.example"
)

// inside runs the tests as a machine of their own, with one link to the
// internet's namespace.
func inside(m *testing.M) int {
	if err := makeWorld(); err != nil {
		fmt.Println("FAIL: make the namespaces:", err)
		return 1
	}
	return m.Run()
}

func makeWorld() error {
	// Mounts that tests make must not reach the machine.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := fakes.MountSys(); err != nil {
		return err
	}
	if err := addLoopback(); err != nil {
		return err
	}
	ready := make(chan error)
	handle := make(chan netns.NsHandle, 1)
	go internet(handle, ready)
	if err := connect(<-handle); err != nil {
		return err
	}
	ready <- nil
	return <-ready
}

func addLoopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// connect joins this machine to the internet's namespace.
func connect(internet netns.NsHandle) error {
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "ext0"}, PeerName: "peer0", PeerNamespace: netlink.NsFd(internet)}
	if err := netlink.LinkAdd(pair); err != nil {
		return err
	}
	link, err := netlink.LinkByName("ext0")
	if err != nil {
		return err
	}
	if err := addAddress(link, externalAddress+"/24"); err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(internetGateway)})
}

func addAddress(link netlink.Link, cidr string) error {
	address, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, address); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// internet keeps a thread in a namespace of its own that answers HTTP: with the
// address it sees the client under.
func internet(handle chan<- netns.NsHandle, ready chan error) {
	runtime.LockOSThread()
	ns, err := netns.New()
	if err != nil {
		panic(err) // the test binary cannot go on
	}
	handle <- ns
	if err := <-ready; err != nil {
		panic(err)
	}
	ready <- serveInternet()
	select {}
}

func serveInternet() error {
	if err := addLoopback(); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, address := range []string{internetServer, lanServer} {
		if err := addAddress(lo, address+"/32"); err != nil {
			return err
		}
	}
	peer, err := netlink.LinkByName("peer0")
	if err != nil {
		return err
	}
	if err := addAddress(peer, internetGateway+"/24"); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", ":80")
	if err != nil {
		return err
	}
	questions, err := net.ListenPacket("udp", internetServer+":53")
	if err != nil {
		return err
	}
	server := &dns.Server{PacketConn: questions, Handler: dns.HandlerFunc(answer)}
	go func() { _ = server.ActivateAndServe() }()
	go func() {
		_ = http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintln(w, r.RemoteAddr)
		}))
	}()
	return nil
}

// answer knows the addresses of three names.
func answer(w dns.ResponseWriter, q *dns.Msg) {
	reply := new(dns.Msg).SetReply(q)
	name := strings.TrimSuffix(strings.ToLower(q.Question[0].Name), ".")
	address := map[string]string{publicName: internetServer, otherName: internetServer, privateName: lanServer}[name]
	switch {
	case address == "":
		reply.Rcode = dns.RcodeNameError
	case q.Question[0].Qtype == dns.TypeA:
		header := dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}
		reply.Answer = []dns.RR{&dns.A{Hdr: header, A: net.ParseIP(address)}}
	}
	_ = w.WriteMsg(reply)
}

// settings is all of the machine that bield changes: compared before and after.
func settings(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		found["link "+l.Attrs().Name] = l.Type()
	}
	found["nft"] = run(t, "nft", "list", "ruleset")
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding", "net/ipv4/conf/all/rp_filter", "net/ipv6/conf/all/forwarding"} {
		value, err := os.ReadFile(filepath.Join("/proc/sys", key))
		if err != nil {
			t.Fatal(err)
		}
		found[key] = string(value)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	found["routes"] = fmt.Sprint(routes)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	found["mounts"] = string(mounts)
	return found
}
