package firewall

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// silence is how long no answer has to be to count as none.
const silence = 250 * time.Millisecond

// ask sends from a namespace (nil: the host) to an echo server and returns the
// address that the server saw.
func ask(t *testing.T, from *space, network, local, to string, wait time.Duration) (string, error) {
	t.Helper()
	var conn net.Conn
	dial := func() (err error) {
		dialer := net.Dialer{Timeout: wait}
		if local != "" {
			dialer.LocalAddr = &net.UDPAddr{IP: net.ParseIP(local)}
		}
		conn, err = dialer.Dial(network, to)
		return err
	}
	var err error
	if from == nil {
		err = dial()
	} else {
		from.do(t, func() error { err = dial(); return nil })
	}
	if err != nil {
		return "", err
	}
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(wait)))
	if network == "tcp4" {
		answer, err := io.ReadAll(conn)
		return string(answer), err
	}
	if _, err := fmt.Fprint(conn, "who am I?"); err != nil {
		return "", err
	}
	buf := make([]byte, 100)
	n, err := conn.Read(buf)
	return string(buf[:n]), err
}

func wantSeenAs(t *testing.T, from *space, to, want string) {
	t.Helper()
	for _, network := range []string{"udp4", "tcp4"} {
		got, err := ask(t, from, network, "", to, patience)
		if err != nil {
			t.Errorf("%s to %s: %v", network, to, err)
		} else if host, _, _ := net.SplitHostPort(got); host != want {
			t.Errorf("%s to %s is seen as from %s, want %s", network, to, host, want)
		}
	}
}

func wantSilence(t *testing.T, from *space, to string) {
	t.Helper()
	for _, network := range []string{"udp4", "tcp4"} {
		got, err := ask(t, from, network, "", to, silence)
		timeout, _ := errors.AsType[net.Error](err)
		noARP := errors.Is(err, unix.EHOSTUNREACH)
		if !noARP && (timeout == nil || !timeout.Timeout()) {
			t.Errorf("%s to %s: got %q and %v, want no answer at all", network, to, got, err)
		}
	}
}

// wantRefused wants an answer that says no, and at once.
func wantRefused(t *testing.T, from *space, to string) {
	t.Helper()
	for _, network := range []string{"udp4", "tcp4"} {
		wantRefusedOver(t, from, network, to)
	}
}

func wantRefusedOver(t *testing.T, from *space, network, to string) {
	t.Helper()
	got, err := ask(t, from, network, "", to, patience)
	if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EHOSTUNREACH) {
		t.Errorf("%s to %s: got %q and %v, want a refusal", network, to, got, err)
	}
}

func TestTraffic(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	for _, s := range []*space{nil, &l.internet, &l.intranet, &l.guest1, &l.guest2} {
		echo(t, s, "0.0.0.0:7")
	}
	for _, setting := range bridgeNetfilter(t) {
		t.Run(setting.name, func(t *testing.T) {
			setting.apply(t)
			must(t, Set(t.Context(), l.config))
			for _, guest := range []*space{&l.guest1, &l.guest2} {
				wantSeenAs(t, guest, internetIP+":7", externalIP)
				wantSeenAs(t, guest, intranetIP+":7", secondIP)
			}
			wantRefused(t, &l.guest1, hostIP+":7")
			wantSeenAs(t, nil, guest1IP+":7", hostIP)
			wantSeenAs(t, nil, hostIP+":7", hostIP)
			wantSilence(t, &l.internet, guest1IP+":7")
			wantSilence(t, &l.intranet, guest1IP+":7")
			wantSilence(t, &l.guest1, guest2IP+":7")
			wantSilence(t, &l.guest2, guest1IP+":7")

			only := l.config
			only.ExternalInterface = "ext0"
			must(t, Set(t.Context(), only))
			wantSeenAs(t, &l.guest1, internetIP+":7", externalIP)
			wantSilence(t, &l.guest1, intranetIP+":7")
		})
	}
	// Without the rules what was silent answers.
	must(t, Remove(t.Context(), l.config.Owner))
	wantSeenAs(t, &l.internet, guest1IP+":7", internetIP)
	wantSeenAs(t, &l.guest1, guest2IP+":7", guest1IP)
	wantSeenAs(t, &l.guest1, intranetIP+":7", guest1IP)
}

// TestHostKeepsItsAddress shows that NAT leaves alone what the host says to
// itself from its address on the bridge.
func TestHostKeepsItsAddress(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	echo(t, nil, externalIP+":7")
	must(t, Set(t.Context(), l.config))
	got, err := ask(t, nil, "udp4", hostIP, externalIP+":7", patience)
	must(t, err)
	if !strings.HasPrefix(got, hostIP+":") {
		t.Errorf("seen as %s", got)
	}
}

// TestSetLosesNothing changes the rules while a guest opens one connection
// after the other and keeps one open.
func TestSetLosesNothing(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	echo(t, &l.internet, "0.0.0.0:7")
	must(t, Set(t.Context(), l.config))
	wantSeenAs(t, &l.guest1, internetIP+":7", externalIP)
	stop, done := make(chan struct{}), make(chan error)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			c := l.config
			c.VMs = c.VMs[:1+i%2]
			if err := Set(t.Context(), c); err != nil {
				done <- err
				return
			}
		}
	}()
	for range 300 {
		wantSeenAs(t, &l.guest1, internetIP+":7", externalIP)
		if t.Failed() {
			break
		}
	}
	close(stop)
	must(t, <-done)
}
