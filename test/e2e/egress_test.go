package e2e

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"bield/internal/api"
	"bield/internal/reconcile"
)

// TestEgress follows one VM through the modes of egress, changed while it runs,
// and through the ends of the processes that stand behind them.
func TestEgress(t *testing.T) {
	h := newHost(t)
	e := &egressTest{h: h, workspace: h.folder(t, "work", guestUID, guestGID)}
	e.declare(t, "public")
	h.bield(t, "up", "one")
	e.boot = h.in(t, "one", "cat /proc/sys/kernel/random/boot_id")
	t.Run("public", e.public)
	t.Run("the host takes nothing", e.hostClosed)
	t.Run("allowlist, while it runs", e.allowlist)
	t.Run("allow opens what is private", e.allow)
	t.Run("none", e.none)
	t.Run("closed while daemon and egress process are dead", e.survives)
	t.Run("open", e.open)
	want(t, "the boot that saw all of it", h.in(t, "one", "cat /proc/sys/kernel/random/boot_id"), e.boot)
}

type egressTest struct {
	h               *host
	workspace, boot string
}

func (e *egressTest) declare(t *testing.T, egress string) {
	t.Helper()
	e.h.configure(t, "  one: {ip: 192.168.83.2, mem: 512, workspace: "+e.workspace+", egress: "+egress+"}\nnameservers: ["+internetServer+"]\n")
}

func (e *egressTest) apply(t *testing.T, egress string) {
	t.Helper()
	e.declare(t, egress)
	e.h.bield(t, "apply")
}

// get is what curl says of a URL, or how it failed, within ten seconds: a
// time-out is no answer.
func (e *egressTest) get(t *testing.T, url string) string {
	t.Helper()
	out, code := e.h.try(t, "one", "curl -sS --max-time 10 "+url)
	if code == 28 {
		t.Errorf("%s: a time-out: %s", url, out)
	}
	return out
}

// reaches wants an answer of a server outside, which tells the client's address.
func (e *egressTest) reaches(t *testing.T, url string) {
	t.Helper()
	contains(t, url, e.get(t, url), externalAddress+":")
}

func (e *egressTest) refused(t *testing.T, url string, words ...string) {
	t.Helper()
	out := e.get(t, url)
	if strings.Contains(out, externalAddress+":") {
		t.Errorf("%s is reached: %s", url, out)
	}
	contains(t, url, out, words...)
}

func (e *egressTest) public(t *testing.T) {
	e.reaches(t, "http://"+publicName+"/")
	e.reaches(t, "http://"+internetServer+"/")
	e.refused(t, "http://"+privateName+"/", "Could not resolve host") // its only address is private
	e.refused(t, "http://"+lanServer+"/", "private or special", "allow: ["+lanServer+":80]")
	e.refused(t, "http://169.254.169.254/latest/meta-data/", "private or special")
	out, _ := e.h.try(t, "one", "getent ahostsv4 nowhere.example || echo no such name")
	want(t, "a name that does not exist", out, "no such name")
}

// hostClosed has services listen on the host, at all of its addresses.
func (e *egressTest) hostClosed(t *testing.T) {
	listener, err := net.Listen("tcp", ":8080")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, address := range []string{"192.168.83.1", externalAddress} {
		out, code := e.h.try(t, "one", "curl -sS --max-time 10 http://"+address+":8080/")
		if code != 7 { // could not connect
			t.Errorf("%s:8080: curl ended with %d: %s", address, code, out)
		}
	}
	if out, code := e.h.try(t, "one", "ping -c1 -W5 192.168.83.1"); code != 0 {
		t.Errorf("the host does not answer pings: %s", out)
	}
	contains(t, "the page about it", e.get(t, "http://bield.internal/"), "public")
}

func (e *egressTest) allowlist(t *testing.T) {
	e.apply(t, "{mode: allowlist, names: ["+publicName+"]}")
	e.reaches(t, "http://"+publicName+"/")
	e.refused(t, "http://"+otherName+"/", "Could not resolve host")
	e.refused(t, "--resolve "+otherName+":80:"+internetServer+" http://"+otherName+"/", otherName, "names: ["+otherName+"]")
	e.refused(t, "http://"+internetServer+"/", "names")
	e.refused(t, "http://"+lanServer+"/", "private or special")
	if out, code := e.h.try(t, "one", "ping -c1 -W5 "+internetServer); code == 0 {
		t.Errorf("ping passes: %s", out)
	}
	has := func(what string, matches func(api.Denial) bool) {
		t.Helper()
		// The kernel tells of packets a moment later.
		if err := waitFor(5*time.Second, what+" in the log", func() bool { return slices.ContainsFunc(e.log(t), matches) }); err != nil {
			t.Errorf("%v: %+v", err, e.log(t))
		}
	}
	has("the name that was asked for", func(d api.Denial) bool { return d.Kind == "dns" && d.Name == otherName })
	has("the host of the request", func(d api.Denial) bool { return d.Kind == "http" && d.Name == otherName && d.Port == 80 })
	has("the ping", func(d api.Denial) bool { return d.Kind == "icmp" && d.Address == internetServer })
	contains(t, "check", e.h.bield(t, "egress", "check", "one", publicName+":80"), "allowed:", "names: "+publicName)
	contains(t, "check", e.h.fails(t, "egress", "check", "one", otherName), "refused:", "names: ["+otherName+"]")
}

// log is what was refused to the VM so far.
func (e *egressTest) log(t *testing.T) []api.Denial {
	t.Helper()
	var denials []api.Denial
	for line := range strings.Lines(e.h.bield(t, "egress", "log", "--json", "one")) {
		var d api.Denial
		if err := json.Unmarshal([]byte(line), &d); err != nil || d.Count == 0 || d.Reason == "" {
			t.Fatalf("%v: %s", err, line)
		}
		denials = append(denials, d)
	}
	return denials
}

func (e *egressTest) allow(t *testing.T) {
	e.apply(t, "{mode: allowlist, names: ["+publicName+"], allow: ["+privateName+"]}")
	e.reaches(t, "http://"+privateName+"/")
	e.refused(t, "http://"+otherName+"/", "Could not resolve host")
	e.apply(t, `{mode: none, allow: ["`+lanServer+`:80"]}`)
	e.reaches(t, "http://"+lanServer+"/")
	e.refused(t, "http://"+internetServer+"/", "egress mode none")
}

func (e *egressTest) none(t *testing.T) {
	e.apply(t, "none")
	e.refused(t, "http://"+publicName+"/", "Could not resolve host")
	e.refused(t, "http://"+internetServer+"/", "egress mode none")
	e.refused(t, "http://"+lanServer+"/", "egress mode none")
}

// survives ends the daemon, and then what serves names: rules stay as they are,
// and what nobody decides any more is closed.
func (e *egressTest) survives(t *testing.T) {
	e.apply(t, "{mode: allowlist, names: ["+publicName+"]}")
	// What stands here runs in the guest when nobody on the host can look.
	script := `for at in http://` + publicName + `/ http://` + internetServer + `/ http://` + lanServer + `/; do curl -sS --max-time 5 $at 2>&1 | head -1; done`
	inside := func() string {
		return e.h.direct(t, "one", script)
	}
	e.h.direct(t, "one", "true")
	pid, err := daemonPID(e.h.bin, e.h.run)
	if err != nil || pid == 0 {
		t.Fatal(pid, err)
	}
	kill(t, pid)
	lines := strings.Split(inside(), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], externalAddress+":") || strings.Contains(strings.Join(lines[1:], " "), externalAddress+":") {
		t.Errorf("without a daemon: %q", lines)
	}
	var record reconcile.HostRecord
	data, err := os.ReadFile(filepath.Join(e.h.run, "host.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &record); err != nil || record.Egress == nil || record.Egress.Process == nil {
		t.Fatalf("%v: %s", err, data)
	}
	kill(t, record.Egress.Process.PID)
	if out := inside(); strings.Contains(out, externalAddress+":") {
		t.Errorf("without an egress process: %q", out)
	}
	e.h.bield(t, "up", "one")
	e.reaches(t, "http://"+publicName+"/")
	e.refused(t, "http://"+internetServer+"/", "names")
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := waitFor(10*time.Second, "its end", func() bool { return zombie(pid) }); err != nil {
		t.Fatal(err)
	}
}

func (e *egressTest) open(t *testing.T) {
	e.apply(t, "open")
	e.reaches(t, "http://"+internetServer+"/")
	e.reaches(t, "http://"+lanServer+"/")
	e.reaches(t, "http://"+privateName+"/")
}
