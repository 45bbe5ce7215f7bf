package network

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

// childEnv names the test that runs in this process, in a namespace of its own.
const childEnv = "BIELD_TEST_NAMESPACE"

// inNamespace runs the calling test again in a child process with a network
// and a mount namespace of its own, and reports true in that child. Nothing
// reaches the namespace of the machine.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(childEnv) == t.Name() {
		return true
	}
	if os.Geteuid() != 0 {
		skip(t, "namespaces need root")
	}
	if _, err := os.Stat(tunDevice); err != nil {
		skip(t, err.Error())
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), childEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("in its namespace: %v\n%s", err, out)
	}
	if !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("in its namespace the test did not run:\n%s", out)
	}
	return false
}

func skip(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("BIELD_TEST_REQUIRE") == "1" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantError fails unless err mentions every one of the words.
func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one that mentions %q", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not mention %q", err, w)
		}
	}
}

func mustLink(t *testing.T, name string) netlink.Link {
	t.Helper()
	link, err := find(name)
	must(t, err)
	if link == nil {
		t.Fatalf("interface %s is missing", name)
	}
	return link
}

func wantNoLink(t *testing.T, name string) {
	t.Helper()
	link, err := find(name)
	must(t, err)
	if link != nil {
		t.Errorf("interface %s is there", name)
	}
}

func addLink(t *testing.T, link netlink.Link, addr string) {
	t.Helper()
	must(t, netlink.LinkAdd(link))
	if addr != "" {
		a, err := netlink.ParseAddr(addr)
		must(t, err)
		must(t, netlink.AddrAdd(link, a))
	}
	must(t, netlink.LinkSetUp(link))
}

func named(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}

// pair is a link that any kernel with namespaces has, one end of a veth pair.
func pair(name string) *netlink.Veth {
	return &netlink.Veth{LinkAttrs: named(name), PeerName: name + "-p"}
}
