package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"bield/internal/spec"
	"bield/test/fakes"
)

// TestPackage installs the Debian package on a machine that runs systemd: a
// guest. The units are the real ones, and so are daemon, links and rules; the
// VMs that this bield starts are fakes, which need no QEMU in a guest.
func TestPackage(t *testing.T) {
	for _, program := range []string{"make", "dpkg-deb"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("BIELD_TEST_REQUIRE") == "1" {
				t.Fatal("required: there is no program " + program)
			}
			t.Skip("there is no program " + program)
		}
	}
	h := newHost(t)
	work := h.folder(t, "work", guestUID, guestGID)
	furnishMachine(t, h, work)
	h.configure(t, fmt.Sprintf("  machine: {ip: 192.168.83.2, workspace: %s, mem: 4G, init: systemd, stopTimeout: 1m}\n", work))
	h.bield(t, "up", "machine")
	m := newMachine(t, h)
	m.root(t, "sh -e /workspace/prepare")

	t.Run("install", m.install)
	t.Run("a VM outlives its daemon and the package's upgrade", m.outlives)
	t.Run("bield@.service", m.unit)
	t.Run("remove and purge", m.remove)
	t.Run("the machine's shutdown stops VMs", func(t *testing.T) { m.shutdown(t, work) })
}

// machine is the guest that bield is installed on, with a shell of root's in it:
// a session for each command would take most of the time.
type machine struct {
	h   *host
	in  io.Writer
	out *bufio.Reader
}

func newMachine(t *testing.T, h *host) *machine {
	t.Helper()
	cmd := h.command("ssh", "machine", "--", "sudo", "sh")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// It ends with the machine at the latest.
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	return &machine{h, in, bufio.NewReader(out)}
}

// try runs a shell line as root of the machine and returns what it printed.
func (m *machine) try(t *testing.T, line string) (string, int) {
	t.Helper()
	const end = "-- exit code "
	if _, err := fmt.Fprintf(m.in, "(%s\n) < /dev/null 2>&1; echo \"\n%s$?\"\n", line, end); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	for {
		text, err := m.out.ReadString('\n')
		if err != nil {
			t.Fatalf("%s: the shell ended: %v: %s", line, err, said.String())
		}
		if code, ended := strings.CutPrefix(text, end); ended {
			n, err := strconv.Atoi(strings.TrimSpace(code))
			if err != nil {
				t.Fatal(err)
			}
			return strings.TrimSpace(said.String()), n
		}
		said.WriteString(text)
	}
}

// root runs one that must succeed.
func (m *machine) root(t *testing.T, line string) string {
	t.Helper()
	out, code := m.try(t, line)
	if code != 0 {
		t.Fatalf("%s: exit status %d: %s", line, code, out)
	}
	return out
}

// fails runs one that must not succeed.
func (m *machine) fails(t *testing.T, line string) string {
	t.Helper()
	out, code := m.try(t, line)
	if code == 0 {
		t.Errorf("%s succeeded: %s", line, out)
	}
	return out
}

func (m *machine) install(t *testing.T) {
	out := m.root(t, "dpkg -i /workspace/bield.deb")
	contains(t, "what dpkg says", out, "Setting up bield", "bield setup")
	want(t, "units", m.root(t, "systemctl is-active bieldd bield-vms; systemctl is-enabled bieldd; systemctl is-system-running || systemctl --failed --no-legend"),
		"active\nactive\nenabled\nrunning")
	contains(t, "versions", m.root(t, "bield version"), "bield e2e\n", "bieldd e2e (pid ")
	want(t, "the socket's group", m.root(t, "getent group bield >/dev/null && stat -c '%a %G' /run/bield/bieldd.sock"), "660 bield")
	contains(t, "status", m.root(t, "systemctl status bieldd"), `Status: "no VM runs"`)
	want(t, "files that may be open", m.root(t, "prlimit --noheadings --nofile --output SOFT,HARD --pid $(systemctl show -P MainPID bieldd) | tr -s ' '"), "1048576 1048576")
	m.root(t, "cp /workspace/bieldd.default /etc/default/bieldd")
	// The daemon ended: root's bield starts the unit, others are told how.
	m.root(t, "systemctl stop bieldd")
	contains(t, "an ordinary user", m.fails(t, "setpriv --reuid dev --regid dev --clear-groups bield ls"), "sudo systemctl start bieldd")
	m.root(t, "bield ls")
	want(t, "the unit after root's ls", m.root(t, "systemctl is-active bieldd"), "active")
}

// vmmAndDaemon are the processes of the VM one and of the unit.
const vmmAndDaemon = `pgrep -f "^[^ ]*qemu-system-x86_64 .*guest=one"; systemctl show -P MainPID bieldd`

func (m *machine) pids(t *testing.T) (vmm, daemon string) {
	t.Helper()
	lines := strings.Fields(m.root(t, vmmAndDaemon))
	if len(lines) != 2 || lines[1] == "0" {
		t.Fatalf("VMM and daemon: %q", lines)
	}
	return lines[0], lines[1]
}

func (m *machine) state(t *testing.T) string {
	t.Helper()
	return m.root(t, `bield ls --json | tr -d " \n" | grep -o "\"state\":\"[a-z]*\"" | cut -d\" -f4`)
}

func (m *machine) outlives(t *testing.T) {
	m.root(t, "bield up one")
	vmm, _ := m.pids(t)
	for what, line := range map[string]string{
		"an upgrade":        "dpkg -i /workspace/bield.deb",
		"the daemon's kill": "systemctl kill --signal KILL --kill-who main bieldd; until [ $(systemctl show -P NRestarts bieldd) -gt 0 ]; do sleep 0.1; done; systemctl start bieldd",
	} {
		_, before := m.pids(t)
		m.root(t, line)
		same, daemon := m.pids(t)
		if same != vmm || daemon == before {
			t.Errorf("%s: VMM %s → %s, daemon %s → %s", what, vmm, same, before, daemon)
		}
		want(t, "state after "+what, m.state(t), string(spec.StateRunning))
	}
	contains(t, "status", m.root(t, "systemctl status bieldd"), `Status: "VMs: 1 running"`)
	m.root(t, "systemctl stop bield-vms")
	want(t, "state once bield-vms is stopped", m.state(t), string(spec.StateDown))
	m.root(t, "systemctl start bield-vms")
}

func (m *machine) unit(t *testing.T) {
	contains(t, "a VM that nobody knows", m.fails(t, "systemctl start bield@nosuch"), "bield@nosuch.service")
	contains(t, "its journal", m.root(t, "journalctl -o cat -u bield@nosuch"), "bield: ", "nosuch")
	m.root(t, "systemctl reset-failed; systemctl start bield@one")
	want(t, "state", m.state(t), string(spec.StateRunning))
	m.root(t, "systemctl restart bieldd")
	want(t, "the unit while the daemon is restarted", m.root(t, "systemctl is-active bield@one"), "active")
	m.root(t, "systemctl stop bield@one")
	want(t, "state once the unit is stopped", m.state(t), string(spec.StateDown))
	// What ends by itself ends its unit, and is not taken down once more.
	m.root(t, `systemctl start bield@one && kill -KILL $(pgrep -f "^[^ ]*qemu-system-x86_64 .*guest=one")`)
	want(t, "the unit of a VM that failed", m.ended(t, "one"), "failed")
	want(t, "state of a VM that failed", m.state(t), string(spec.StateFailed))
	m.root(t, "systemctl start bield@one")
}

// ended waits for the end of a VM's unit, and returns how it did.
func (m *machine) ended(t *testing.T, name string) string {
	t.Helper()
	return m.root(t, "while systemctl is-active -q bield@"+name+" || [ $(systemctl show -P ActiveState bield@"+name+") = deactivating ]; do sleep 0.1; done; systemctl show -P ActiveState bield@"+name)
}

// named lists all that is called after bield; what is in the workspace, and in
// /run, are other file systems.
const named = "find / -xdev -name '*bield*' | sort"

// running lists bield's processes; bield-init is the machine's own.
const running = "ps -e -o comm= | grep -E '^(bield|virtiofsd|qemu)' | grep -v bield-init || true"

// remove finds a VM that its unit has started.
func (m *machine) remove(t *testing.T) {
	contains(t, "what runs", m.root(t, running), "bieldd", "virtiofsd", "qemu")
	contains(t, "what dpkg says", m.root(t, "dpkg -r bield"), "stopping the VMs")
	want(t, "what still runs", m.root(t, running), "")
	want(t, "links and tables", m.root(t, "ls /sys/class/net | grep -E 'microbr|^mv' || true"), "")
	want(t, "units", m.root(t, "systemctl list-unit-files --no-legend 'bieldd*' 'bield-vms*' 'bield@*'; systemctl --failed --no-legend"), "")
	want(t, "what is kept", m.root(t, "ls -d /var/lib/bield /var/cache/bield /etc/default/bieldd /usr/libexec/bield 2>/dev/null || true"), "/etc/default/bieldd\n/var/cache/bield\n/var/lib/bield")
	m.root(t, "dpkg -P bield")
	want(t, "what is there after purge and was not before", m.root(t, named+" | diff /opt/before - || true"), "")
}

// shutdown powers the machine off while it has a VM. The witness is a unit that
// is stopped after bield-vms, and copies the VM's console to where it outlives
// the machine.
func (m *machine) shutdown(t *testing.T, work string) {
	m.root(t, "dpkg -i /workspace/bield.deb && cp /workspace/bieldd.default /etc/default/bieldd && systemctl restart bieldd && bield up one && systemctl start witness")
	m.h.bield(t, "down", "machine")
	console, err := os.ReadFile(filepath.Join(work, "witness"))
	if err != nil {
		t.Fatal(err)
	}
	contains(t, "console of the VM", string(console), "the power button", "Power down")
}

// furnishMachine puts into the workspace what the machine is to have.
func furnishMachine(t *testing.T, h *host, work string) {
	buildPackage(t, h, filepath.Join(work, "bield.deb"))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run(t, "install", "-m", "755", self, filepath.Join(work, "fakes"))
	h.write(t, filepath.Join(work, "bieldd.default"), "PATH=/opt/fakes:/usr/sbin:/usr/bin\nBIELD_TEST_WRITES=/opt/fakes/net\nhttp_proxy=http://127.0.0.1:9\nBIELDD_OPTIONS=\"--boot-timeout 1m\"\n")
	h.write(t, filepath.Join(work, "bield.yaml"), `subnet: 10.77.0
user: {name: dev, uid: 4711, gid: 4712}
stopTimeout: 5s
vms:
  one: {ip: 10.77.0.2, workspace: /home/dev/src, mem: 512}
`)
	h.write(t, filepath.Join(work, "witness.service"), `[Unit]
Before=bield-vms.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStop=cp /var/lib/bield/_bield/console/one.log /workspace/witness
`)
	h.write(t, filepath.Join(work, "bridge.sh"), bridgeScript)
	h.write(t, filepath.Join(work, "prepare"), prepareScript())
}

func buildPackage(t *testing.T, h *host, path string) {
	t.Helper()
	dist := h.folder(t, "dist", 0, 0)
	cmd := exec.Command("packaging/deb/build.sh")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "BIN="+h.bin, "DIST="+dist, "MAKE=make", "VERSION=e2e", "DEB_ARCH=amd64", "DEB_COMPRESSION=none")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the package: %v: %s", err, out)
	}
	found, err := filepath.Glob(filepath.Join(dist, "*.deb"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	if err := os.Rename(found[0], path); err != nil {
		t.Fatal(err)
	}
}

// prepareScript furnishes the machine: the fakes, and the network in which a
// fake VM is found at its address: behind the bridge, in a namespace of its own.
func prepareScript() string {
	script := `mkdir -p /opt/fakes/net /etc/bield /home/dev/src
chmod 1777 /opt/fakes/net
chown dev: /home/dev/src
cp /workspace/fakes /opt/fakes/bring
cp /workspace/bield.yaml /etc/bield/
cp /workspace/witness.service /etc/systemd/system/
`
	for name := range fakes.Programs() {
		script += "ln /opt/fakes/bring /opt/fakes/" + name + "\n"
	}
	return script + `ip netns add guests
` + named + ` > /opt/before
ip link add guests type veth peer name eth0 netns guests
ip -n guests addr add 10.77.0.2/24 dev eth0
ip -n guests link set eth0 up
systemd-run --quiet --unit fake-bridge sh /workspace/bridge.sh
systemd-run --quiet --unit fake-network ip netns exec guests /opt/fakes/bring
systemctl daemon-reload
`
}

// bridgeScript joins the namespace to the bridge whenever bieldd has made it.
const bridgeScript = `ip monitor link | while read -r line; do
  case $line in
  *": microbr: "*) ip link set guests master microbr up ;;
  esac
done
`

// bring takes SSH connections to the fake guests. It is this binary, under that
// name in the machine.
func bring() error {
	listener, err := net.Listen("tcp4", ":22")
	for err == nil {
		var conn net.Conn
		if conn, err = listener.Accept(); err == nil {
			go bringOne(conn)
		}
	}
	return err
}

func bringOne(conn net.Conn) {
	defer conn.Close()
	address, _, err := net.SplitHostPort(conn.LocalAddr().String())
	if err != nil {
		return
	}
	guest, err := net.Dial("unix", "/opt/fakes/net/"+address+".sock")
	if err != nil {
		return
	}
	defer guest.Close()
	ended := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{conn, guest}, {guest, conn}} {
		go func() {
			_, _ = io.Copy(way[0], way[1])
			ended <- struct{}{}
		}()
	}
	<-ended
}
