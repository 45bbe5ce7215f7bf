package firewall

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bield/internal/spec"
)

// serveEgress plays the egress process on the gateway: all three answer what
// they are.
func serveEgress(t *testing.T) Ports {
	t.Helper()
	name := func(what string) string { return "egress " + what }
	udp, err := net.ListenPacket("udp4", hostIP+":0")
	must(t, err)
	t.Cleanup(func() { udp.Close() })
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo([]byte(name("dns")), from)
		}
	}()
	tcp := func(what string) uint16 {
		l, err := net.Listen("tcp4", hostIP+":0")
		must(t, err)
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(conn, name(what))
				_ = conn.Close()
			}
		}()
		return port(t, l.Addr())
	}
	return Ports{DNS: port(t, udp.LocalAddr()), DNSTCP: tcp("dns over tcp"), Proxy: tcp("proxy")}
}

func port(t *testing.T, a net.Addr) uint16 {
	t.Helper()
	p, err := netip.ParseAddrPort(a.String())
	must(t, err)
	return p.Port()
}

// What becomes of a guest's packet.
const (
	passes  = "passes"
	refused = "refused"
)

// wantFate sends over a network and wants an answer by somebody outside, by the
// egress process, or a refusal.
func wantFate(t *testing.T, from *space, network, to, want string) {
	t.Helper()
	wait := patience
	if network == "udp4" && want == refused {
		wait = silence
	}
	got, err := ask(t, from, network, "", to, wait)
	limited, _ := errors.AsType[net.Error](err) // the host sends few ICMP messages a second
	switch {
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.EHOSTUNREACH):
		got = refused
	case want == refused && network == "udp4" && limited != nil && limited.Timeout():
		got = refused
	case err != nil:
		got = err.Error()
	case !strings.HasPrefix(got, "egress"):
		got = passes
	}
	if got != want {
		t.Errorf("%s to %s: %s, want %s", network, to, got, want)
	}
}

// egressLab is a lab with servers everywhere and an egress process.
func egressLab(t *testing.T) *lab {
	t.Helper()
	l := newLab(t)
	for _, s := range []*space{nil, &l.internet, &l.intranet, &l.guest2} {
		for _, port := range []string{"7", "8"} {
			echo(t, s, "0.0.0.0:"+port)
		}
	}
	for _, s := range []*space{&l.internet, &l.intranet} {
		echo(t, s, "0.0.0.0:53")
	}
	l.config.Ports = serveEgress(t)
	return l
}

// TestEgressModes sends from a guest of each mode to each kind of place.
func TestEgressModes(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := egressLab(t)
	allow := []spec.Target{target(t, intranetIP+":8")}
	for _, setting := range bridgeNetfilter(t) {
		setting.apply(t)
		for _, c := range []struct {
			egress                             spec.Egress
			internet, internetTCP              string
			intranet, intranetTCP, intranet8   string
			dns, dnsTCP, web, sibling, routing string
		}{
			{spec.Egress{Mode: spec.EgressOpen}, passes, passes, passes, passes, passes, passes, passes, refused, "", refused},
			{spec.Egress{}, passes, passes, refused, "egress proxy", refused, "egress dns", "egress dns over tcp", "egress proxy", "", refused},
			{spec.Egress{Mode: spec.EgressPublic, Allow: allow}, passes, passes, refused, "egress proxy", passes, "egress dns", "egress dns over tcp", "egress proxy", "", refused},
			{spec.Egress{Mode: spec.EgressAllowlist, Allow: allow}, refused, "egress proxy", refused, "egress proxy", passes, "egress dns", "egress dns over tcp", "egress proxy", "", refused},
			{spec.Egress{Mode: spec.EgressNone}, refused, "egress proxy", refused, "egress proxy", refused, "egress dns", "egress dns over tcp", "egress proxy", "", refused},
		} {
			t.Run(fmt.Sprintf("%s/%s,%d", setting.name, c.egress.Effective(), len(c.egress.Allow)), func(t *testing.T) {
				l.config.VMs[0].Egress = c.egress
				must(t, Set(t.Context(), l.config))
				wantState(t, l.config, true)
				g := &l.guest1
				wantFate(t, g, "udp4", internetIP+":7", c.internet)
				wantFate(t, g, "tcp4", internetIP+":7", c.internetTCP)
				wantFate(t, g, "udp4", intranetIP+":7", c.intranet)
				wantFate(t, g, "tcp4", intranetIP+":7", c.intranetTCP)
				wantFate(t, g, "udp4", intranetIP+":8", c.intranet8)
				if c.intranet8 == passes {
					wantFate(t, g, "tcp4", intranetIP+":8", passes)
				}
				for _, server := range []string{internetIP, intranetIP} {
					wantFate(t, g, "udp4", server+":53", c.dns)
					wantFate(t, g, "tcp4", server+":53", c.dnsTCP)
				}
				wantFate(t, g, "tcp4", hostIP+":80", c.web)
				for _, own := range []string{hostIP, externalIP, secondIP} {
					wantFate(t, g, "udp4", own+":7", c.routing)
					wantFate(t, g, "tcp4", own+":7", c.routing)
				}
				wantSilence(t, g, guest2IP+":7")
			})
		}
	}
}

// TestEgressProcessGone: what it would serve stays closed.
func TestEgressProcessGone(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := egressLab(t)
	l.config.VMs[0].Egress = spec.Egress{Mode: spec.EgressAllowlist}
	l.config.VMs[1].Egress = spec.Egress{Mode: spec.EgressPublic}
	gone := l.config.Ports
	for _, ports := range []Ports{{}, {DNS: gone.DNS + 1, DNSTCP: gone.DNSTCP + 1, Proxy: gone.Proxy + 1}} {
		l.config.Ports = ports
		must(t, Set(t.Context(), l.config))
		for _, network := range []string{"udp4", "tcp4"} {
			wantFate(t, &l.guest1, network, internetIP+":7", refused)
			wantFate(t, &l.guest1, network, internetIP+":53", refused)
			wantFate(t, &l.guest2, network, internetIP+":53", refused)
			wantFate(t, &l.guest2, network, internetIP+":7", passes)
		}
	}
}

// TestLiveTightening: a connection ends when what it needs is forbidden.
func TestLiveTightening(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := egressLab(t)
	var server net.Listener
	l.internet.do(t, func() (err error) { server, err = net.Listen("tcp4", "0.0.0.0:9"); return err })
	t.Cleanup(func() { server.Close() })
	for _, mode := range []spec.EgressMode{spec.EgressPublic, spec.EgressAllowlist, spec.EgressNone} {
		l.config.VMs[0].Egress.Mode = spec.EgressOpen
		must(t, Set(t.Context(), l.config))
		var conn net.Conn
		l.guest1.do(t, func() (err error) { conn, err = net.DialTimeout("tcp4", internetIP+":9", patience); return err })
		far, err := server.Accept()
		must(t, err)
		say := func() error {
			must(t, far.SetReadDeadline(time.Now().Add(silence)))
			if _, err := conn.Write([]byte("x")); err != nil {
				return err
			}
			_, err := far.Read(make([]byte, 1))
			return err
		}
		must(t, say())
		l.config.VMs[0].Egress.Mode = mode
		must(t, Set(t.Context(), l.config))
		if err := say(); (err == nil) != (mode == spec.EgressPublic) {
			t.Errorf("%s: %v", mode, err)
		}
		conn.Close()
		far.Close()
	}
}

// TestOpenings: hostPorts, trustBridge and guestToGuest open what they say.
func TestOpenings(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := egressLab(t)
	l.config.VMs[0].Egress = spec.Egress{}
	open := l.config
	open.HostPorts = []spec.HostPort{{Protocol: "tcp", Port: 7}, {Protocol: "udp", Port: 8}}
	must(t, Set(t.Context(), open))
	for _, own := range []string{hostIP, externalIP} {
		wantFate(t, &l.guest1, "tcp4", own+":7", passes)
		wantFate(t, &l.guest1, "udp4", own+":7", refused)
		wantFate(t, &l.guest1, "tcp4", own+":8", refused)
	}
	wantFate(t, &l.guest1, "udp4", hostIP+":8", passes)
	trusting := l.config
	trusting.TrustBridge = true
	must(t, Set(t.Context(), trusting))
	for _, network := range []string{"udp4", "tcp4"} {
		wantFate(t, &l.guest1, network, hostIP+":7", passes)
		wantFate(t, &l.guest1, network, internetIP+":53", map[string]string{"udp4": "egress dns", "tcp4": "egress dns over tcp"}[network])
	}
	must(t, Set(t.Context(), l.config))
	wantSilence(t, &l.guest1, guest2IP+":7")
	l.config.GuestToGuest = true
	must(t, Set(t.Context(), l.config))
	for _, setting := range bridgeNetfilter(t) {
		setting.apply(t)
		wantSeenAs(t, &l.guest1, guest2IP+":7", guest1IP)
	}
}

// TestEgressProcessItself: whoever takes it over reaches no guest, nothing of the
// host, and nothing private but its name servers, unless a name may be there.
func TestEgressProcessItself(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := egressLab(t)
	l.config.Nameservers = []netip.Addr{netip.MustParseAddr(intranetIP)}
	echo(t, &l.guest1, "0.0.0.0:7")
	must(t, Set(t.Context(), l.config))
	as := func(uid uint32, to string) string {
		cmd := exec.Command("bash", "-c", "exec 3<>/dev/tcp/"+strings.Replace(to, ":", "/", 1)+" && head -c1 <&3")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		cmd.WaitDelay = silence
		timer := time.AfterFunc(2*silence, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		if out, _ := cmd.Output(); len(out) > 0 {
			return passes
		}
		return refused
	}
	want := func(to, fate string) {
		t.Helper()
		if got := as(spec.EgressUID, to); got != fate {
			t.Errorf("the egress process to %s: %s, want %s", to, got, fate)
		}
		if got := as(spec.EgressUID+1, to); got != passes {
			t.Errorf("anybody else to %s: %s", to, got)
		}
	}
	want(internetIP+":7", passes)
	want(intranetIP+":53", passes)
	want(intranetIP+":7", refused)
	want(guest1IP+":7", refused)
	for _, own := range []string{hostIP, externalIP, "127.0.0.1"} {
		want(own+":7", refused)
	}
	l.config.VMs[0].Egress.Allow = []spec.Target{{Name: "git.corp.example"}}
	must(t, Set(t.Context(), l.config))
	want(intranetIP+":7", passes)
	want(guest1IP+":7", refused)
	want(hostIP+":7", refused)
}
