package egress

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"bield/internal/spec"
)

func TestServerSpeaksFirst(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newStage(t)
	newWorld(t, s)
	greeting := func() string {
		c, err := s.dial(t, siteIP+":22")
		must(t, err)
		line, _ := bufio.NewReader(c).ReadString('\n')
		return line
	}
	s.set(t, allowlist(t, "allowed.test:22"))
	if got := greeting(); got != "" {
		t.Errorf("before the name was resolved: %q", got)
	}
	s.denied(t, "tcp", siteIP, "22")
	s.resolved(t, "allowed.test", siteIP)
	if got := greeting(); got != "SSH-2.0-test\r\n" {
		t.Errorf("greeting is %q", got)
	}
	c, err := s.dial(t, siteIP+":22") // and where the client does
	must(t, err)
	in := bufio.NewReader(c)
	_, err = io.WriteString(c, "SSH-2.0-client\r\n")
	must(t, err)
	for _, want := range []string{"SSH-2.0-test\r\n", "SSH-2.0-client\r\n"} {
		if line, err := in.ReadString('\n'); line != want {
			t.Errorf("got %q, %v", line, err)
		}
	}
	must(t, c.(*net.TCPConn).CloseWrite()) // half-closed, and both ends learn it
	if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
		t.Errorf("after the end: %q, %v", rest, err)
	}
	if err := s.tlsTo(t, siteIP+":443", "allowed.test"); err == nil {
		t.Error("a port that was not given is open")
	}
}

// TestSlowClientIsChecked: silence makes no other protocol of TLS and HTTP.
func TestSlowClientIsChecked(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newStage(t)
	newWorld(t, s)
	s.set(t, allowlist(t, "allowed.test:8080", "allowed.test:8443"))
	s.resolved(t, "allowed.test", siteIP)
	slow := func(host string) (int, string) {
		c, err := s.dial(t, siteIP+":8080")
		must(t, err)
		time.Sleep(3 * quietTimeout) // the trick itself
		return request(t, c, bufio.NewReader(c), host)
	}
	if code, text := slow("allowed.test:8080"); code != 200 {
		t.Errorf("a slow client is answered %d %s", code, text)
	}
	if code, text := slow("second.test:8080"); code != 403 {
		t.Errorf("a slow client got past: %d %s", code, text)
	}
	must(t, s.tlsTo(t, siteIP+":8443", "allowed.test"))
	if err := s.tlsTo(t, siteIP+":8443", "second.test"); err == nil {
		t.Error("another name at a port of its own is open")
	}
}

func TestHTTPTricks(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newStage(t)
	newWorld(t, s)
	s.set(t, allowlist(t, "allowed.test"))
	s.resolved(t, "allowed.test", siteIP)
	for what, raw := range map[string]string{
		"absolute form": "GET http://second.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n",
		"CONNECT":       "CONNECT second.test:443 HTTP/1.1\r\nHost: second.test:443\r\n\r\n",
		"two hosts":     "GET / HTTP/1.1\r\nHost: allowed.test\r\nHost: second.test\r\n\r\n",
		"no host":       "GET / HTTP/1.0\r\n\r\n",
		"HTTP/2":        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"other port":    "GET / HTTP/1.1\r\nHost: allowed.test:8080\r\n\r\n",
		"smuggled":      "POST / HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: second.test\r\n\r\n",
	} {
		c, err := s.dial(t, siteIP+":80")
		must(t, err)
		_, err = io.WriteString(c, raw)
		must(t, err)
		must(t, c.SetReadDeadline(time.Now().Add(2*time.Second)))
		got, _ := io.ReadAll(c)
		if strings.Contains(string(got), "site second.test") || what != "smuggled" && strings.Contains(string(got), "site ") {
			t.Errorf("%s got through:\n%s", what, got)
		}
	}
}

func TestUpgrade(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newStage(t)
	newWorld(t, s)
	s.set(t, allowlist(t, "allowed.test"))
	s.resolved(t, "allowed.test", siteIP)
	for to, want := range map[string]int{"websocket": http.StatusSwitchingProtocols, "h2c": http.StatusOK, "websocket, h2c": http.StatusOK} {
		c, err := s.dial(t, siteIP+":80")
		must(t, err)
		_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: allowed.test\r\nConnection: Upgrade\r\nUpgrade: "+to+"\r\n\r\n")
		must(t, err)
		in := bufio.NewReader(c)
		answer, err := http.ReadResponse(in, nil)
		must(t, err)
		defer answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("upgrade to %s: %s", to, answer.Status)
		}
		if want == http.StatusSwitchingProtocols {
			_, err = io.WriteString(c, "echo\n")
			must(t, err)
			if line, _ := in.ReadString('\n'); line != "echo\n" {
				t.Errorf("after the upgrade: %q", line)
			}
		}
		c.Close()
	}
}

func TestPage(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newStage(t)
	newWorld(t, s)
	s.set(t, allowlist(t, "allowed.test"))
	s.resolved(t, spec.EgressName, gatewayIP)
	s.addresses(t, "forbidden.test")
	code, text := s.get(t, gatewayIP+":80", spec.EgressName)
	for _, want := range []string{"claude", "allowlist", "allowed.test", "forbidden.test"} {
		if code != 200 || !strings.Contains(text, want) {
			t.Errorf("the page (%d) does not mention %s:\n%s", code, want, text)
		}
	}
	if code, _ := s.get(t, gatewayIP+":8080", spec.EgressName); code == 200 {
		t.Error("another port of the gateway answers")
	}
}

// TestPolicyCuts: what a new policy forbids ends at once, what it allows stays.
func TestPolicyCuts(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newStage(t)
	newWorld(t, s)
	s.set(t, allowlist(t, "allowed.test:22"))
	s.resolved(t, "allowed.test", siteIP)
	c, err := s.dial(t, siteIP+":22")
	must(t, err)
	in := bufio.NewReader(c)
	echo := func() error {
		if _, err := io.WriteString(c, "here\n"); err != nil {
			return err
		}
		_, err := in.ReadString('\n')
		return err
	}
	must(t, echo())
	s.set(t, allowlist(t, "allowed.test:22", "second.test"))
	must(t, echo())
	s.set(t, allowlist(t, "second.test"))
	if _, err := io.Copy(io.Discard, in); err == nil {
		t.Error("a connection that is forbidden ended in peace")
	}
	s.policy.VMs = nil
	_, err = s.client.Set(t.Context(), s.policy)
	must(t, err)
	if c, err := s.dial(t, siteIP+":22"); err == nil {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("without a VM in the policy a connection is served")
		}
	}
}

// TestKernelDenials: what the kernel refuses is counted, with a reason.
func TestKernelDenials(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newStage(t)
	newWorld(t, s)
	s.set(t, allowlist(t, "allowed.test"))
	s.guest.in(t, func() error {
		c, err := net.Dial("udp", siteIP+":443")
		must(t, err)
		defer c.Close()
		_, err = c.Write([]byte("quic"))
		return err
	})
	s.denied(t, "udp", siteIP, "443", "QUIC is closed")
}

func TestCheck(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newStage(t)
	newWorld(t, s)
	e := allowlist(t, "allowed.test", "inside.test", "*.wild.test:8443")
	e.Allow = targets(t, "10.9.0.0/16:443")
	s.set(t, e)
	for _, one := range []struct {
		target, rule, reason string
		allowed              bool
	}{
		{"allowed.test", "names: allowed.test", "", true},
		{"ALLOWED.test.:80", "names: allowed.test", "", true},
		{"allowed.test:22", "", "not its port 22", false},
		{"x.wild.test:8443", "names: *.wild.test:8443", "", true},
		{"inside.test", "", "private or special", false},
		{"other.test", "", "not on its list", false},
		{"10.9.1.1", "allow: 10.9.0.0/16:443", "", true},
		{"10.9.1.1:80", "", "private or special", false},
		{siteIP, "", "opens names and not addresses", false},
		{gatewayIP, "", "the host itself", false},
		{"::1", "", "no IPv6", false},
	} {
		got, err := s.client.Check(t.Context(), "claude", one.target)
		must(t, err)
		if got.Allowed != one.allowed || got.Rule != one.rule || !strings.Contains(got.Reason, one.reason) {
			t.Errorf("%s: %+v", one.target, got)
		}
	}
	if _, err := s.client.Check(context.Background(), "nobody", "x.test"); err == nil {
		t.Error("a VM that is not there was checked")
	}
}
