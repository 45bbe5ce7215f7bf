package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"bield/internal/spec"
)

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// want compares what a guest said.
func want(t *testing.T, what, got, expected string) {
	t.Helper()
	if got != expected {
		t.Errorf("%s: got %q, want %q", what, got, expected)
	}
}

func contains(t *testing.T, what, got string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(got, part) {
			t.Errorf("%s: %q lacks %q", what, got, part)
		}
	}
}

// TestClaudeHome runs the original's own VM: one VM, looked at from all sides.
func TestClaudeHome(t *testing.T) {
	h := newHost(t)
	before := settings(t)
	v := claudeHome(t, h)
	h.bield(t, "up", "claude-home")

	t.Run("config defaults and derived names", v.names)
	t.Run("host name, address, gateway, DNS, no DHCP client", v.network)
	t.Run("the internet through NAT alone", v.nat)
	t.Run("workspace of 50000 files", v.bigWorkspace)
	t.Run("shares and owners", v.shares)
	t.Run("guest root leaves no root-owned and no setuid file", v.squash)
	t.Run("user, zsh, sudo, packages", v.user)
	t.Run("sshd takes the user's key alone", v.sshd)
	t.Run("processes that serve the guest", v.processes)
	t.Run("ephemeral root, lasting workspace and host key", v.ephemeral)
	t.Run("nothing is left after down", func(t *testing.T) { v.down(t, before) })
}

// vm is claude-home and the folders it shares.
type vm struct {
	h                           *host
	name                        string
	workspace, agent, reference string
}

func claudeHome(t *testing.T, h *host) *vm {
	v := &vm{
		h: h, name: "claude-home",
		workspace: h.folder(t, "work", guestUID, guestGID),
		agent:     h.folder(t, "home/dev/.claude", guestUID, guestGID),
		reference: h.folder(t, "reference", 0, 0),
	}
	h.write(t, filepath.Join(v.workspace, "README"), "from the host\n")
	h.write(t, filepath.Join(v.agent, "settings.json"), "{}\n")
	if err := os.WriteFile(filepath.Join(v.reference, "manual"), []byte("read me\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	h.configure(t, fmt.Sprintf(`  claude-home:
    ip: 192.168.83.2
    workspace: %s
    extraPackages: [%s]
    shares:
      - {source: %s}
      - {source: %s, mountPoint: /mnt/reference, readOnly: true}
`, v.workspace, extraPackage, v.agent, v.reference))
	return v
}

func (v *vm) in(t *testing.T, line string) string {
	t.Helper()
	return v.h.in(t, v.name, line)
}

func (v *vm) names(t *testing.T) {
	s := v.h.status(t, v.name)
	want(t, "state", string(s.State), string(spec.StateRunning))
	want(t, "MAC", s.MAC, "02:00:00:01:b8:4b")
	want(t, "tap", s.Tap, "mvb84b5ea1db5")
	want(t, "MAC in the guest", v.in(t, "cat /sys/class/net/e*/address"), s.MAC)
	contains(t, "ports of the bridge", run(t, "ls", "/sys/class/net/microbr/brif"), s.Tap)
	want(t, "vcpus in the guest", v.in(t, "nproc"), fmt.Sprint(s.VCPU))
	if s.VCPU < 1 || s.VCPU > spec.DefaultVCPU {
		t.Errorf("vcpu: %d", s.VCPU)
	}
	want(t, "mem", fmt.Sprint(s.MemoryMiB), fmt.Sprint(spec.DefaultMemoryMiB))
	want(t, "gigabytes in the guest", v.in(t, "awk '/MemTotal/ {printf \"%.0f\", $2/1024/1024}' /proc/meminfo"), "4")
	want(t, "workspace", s.Workspace, v.workspace)
}

func (v *vm) network(t *testing.T) {
	want(t, "host name", v.in(t, "hostname"), v.name)
	contains(t, "addresses", v.in(t, "ip -4 -br addr show up"), "192.168.83.2/24")
	contains(t, "route", v.in(t, "ip route show default"), "via 192.168.83.1")
	contains(t, "resolv.conf", v.in(t, "cat /etc/resolv.conf"), "nameserver 1.1.1.1", "nameserver 8.8.8.8")
	contains(t, "hosts", v.in(t, "getent ahostsv4 "+v.name), v.name)
	if out, code := v.h.try(t, v.name, "pgrep -l 'dhclient|dhcpcd|udhcpc|systemd-network|NetworkManager'"); code != 1 {
		t.Errorf("a DHCP client runs: %s", out)
	}
	want(t, "IPv6 addresses beyond loopback", v.in(t, "ip -6 -br addr show scope global; ip -6 -br addr show scope link"), "")
	address, err := os.ReadFile("/sys/class/net/microbr/address")
	if err != nil || len(address) == 0 {
		t.Errorf("the bridge has no address: %v", err)
	}
}

func (v *vm) nat(t *testing.T) {
	out := v.in(t, "curl -sS --max-time 10 http://"+internetServer+"/")
	contains(t, "client as the internet sees it", out, externalAddress+":")
	if out, code := v.h.try(t, v.name, "ping -c1 -W2 "+internetServer); code != 0 {
		t.Errorf("ping the internet: %s", out)
	}
	// Without the rules the same packets do not come back: the internet has no
	// route to the guests. up gives a VM that runs what it lost.
	run(t, "nft", "flush", "ruleset")
	if out, code := v.h.try(t, v.name, "ping -c1 -W2 "+internetServer); code == 0 {
		t.Errorf("the internet answers without NAT: %s", out)
	}
	v.h.bield(t, "up", v.name)
	if out, code := v.h.try(t, v.name, "ping -c1 -W2 "+internetServer); code != 0 {
		t.Errorf("ping the internet after up: %s", out)
	}
}

func (v *vm) bigWorkspace(t *testing.T) {
	const folders, files = 100, 500
	v.h.folder(t, "work/tree", guestUID, guestGID)
	for d := range folders {
		dir := v.h.folder(t, fmt.Sprintf("work/tree/d%03d", d), guestUID, guestGID)
		for f := range files {
			text := "nothing here\n"
			if d == 77 && f == 333 {
				text = "the needle\n"
			}
			v.h.write(t, filepath.Join(dir, fmt.Sprintf("f%03d", f)), text)
		}
	}
	want(t, "files listed", v.in(t, "find /workspace/tree -type f | wc -l"), fmt.Sprint(folders*files))
	want(t, "bytes by stat", v.in(t, "find /workspace/tree -type f -printf '%s\\n' | awk '{s+=$1} END {print s}'"), fmt.Sprint(13*folders*files-2))
	want(t, "search", v.in(t, "grep -rl needle /workspace/tree"), "/workspace/tree/d077/f333")
	want(t, "the share lives", v.in(t, "cat /workspace/README"), "from the host")
}

func (v *vm) shares(t *testing.T) {
	want(t, "workspace", v.in(t, "cat /workspace/README"), "from the host")
	want(t, "agent configuration at the same path", v.in(t, "cat "+v.agent+"/settings.json"), "{}")
	want(t, "extra share", v.in(t, "cat /mnt/reference/manual"), "read me")
	for _, path := range []string{"/workspace/README", "/etc/ssh/host-keys/ssh_host_ed25519_key"} {
		want(t, "owner in the guest of "+path, v.in(t, "stat -c '%u %g' "+path), fmt.Sprint(guestUID, " ", guestGID))
	}
	v.in(t, "echo from the guest > /workspace/answer && echo x > "+v.agent+"/token && mkdir /workspace/dir && ln -s README /workspace/link")
	for _, path := range []string{v.workspace + "/answer", v.agent + "/token", v.workspace + "/dir", v.workspace + "/link"} {
		uid, gid := owner(t, path)
		want(t, "owner on the host of "+path, fmt.Sprint(uid, " ", gid), fmt.Sprint(guestUID, " ", guestGID))
	}
	for _, path := range []string{"/mnt/reference/new", "/etc/ssh/host-keys/new"} {
		if out, code := v.h.try(t, v.name, "sudo touch "+path); code == 0 || !strings.Contains(out, "Read-only") {
			t.Errorf("touch %s: %d %s", path, code, out)
		}
	}
	h := v.h.write(t, filepath.Join(v.workspace, "late"), "later\n")
	want(t, "a file the host makes later", v.in(t, "cat /workspace/"+filepath.Base(h)), "later")
}

func (v *vm) squash(t *testing.T) {
	v.in(t, "sudo sh -c 'echo root > /workspace/byroot && cp /bin/true /workspace/suid && chown 0:0 /workspace/suid && chmod 6755 /workspace/suid'")
	if out, code := v.h.try(t, v.name, "sudo mknod /workspace/disk b 8 0"); code == 0 {
		t.Errorf("mknod succeeded: %s", out)
	}
	for _, name := range []string{"byroot", "suid"} {
		uid, gid := owner(t, filepath.Join(v.workspace, name))
		want(t, "owner of "+name, fmt.Sprint(uid, " ", gid), fmt.Sprint(guestUID, " ", guestGID))
	}
	found := run(t, "find", v.h.base, "-path", v.h.run, "-prune", "-o", "-user", "0", "-newer", filepath.Join(v.workspace, "README"), "-path", v.workspace+"/*", "-print")
	want(t, "files of root's in the workspace", found, "")
	found = run(t, "find", v.workspace, "-perm", "/6000", "-not", "-uid", fmt.Sprint(guestUID))
	want(t, "setuid files of others", found, "")
	v.in(t, "ln -sf /etc/shadow /workspace/out")
	if out, code := v.h.try(t, v.name, "cat /workspace/out"); code == 0 {
		t.Errorf("a link to /etc/shadow was read as the user: %s", out)
	}
	guest := v.in(t, "sudo cat /workspace/out | head -1")
	hostShadow, err := os.ReadFile("/etc/shadow")
	if err != nil {
		t.Fatal(err)
	}
	if guest == "" || strings.HasPrefix(string(hostShadow), guest+"\n") && strings.Contains(guest, "$") {
		t.Errorf("a link resolved on the host: %q", guest)
	}
}

func (v *vm) user(t *testing.T) {
	want(t, "user", v.in(t, "id -un; id -u; id -g"), fmt.Sprintf("dev\n%d\n%d", guestUID, guestGID))
	contains(t, "shell", v.in(t, "getent passwd dev"), "zsh")
	want(t, "sudo", v.in(t, "sudo -n id -u"), "0")
	v.in(t, "zsh -lic 'exit 0'")
	for _, program := range []string{"git", "vim", "curl", "wget", "htop", "zsh", extraPackage} {
		v.in(t, "command -v "+program)
	}
	want(t, "home", v.in(t, "stat -c '%u' ~ && touch ~/x && rm ~/x"), fmt.Sprint(guestUID))
	want(t, "zombies", v.in(t, "ps -eo stat | grep -c ^Z || true"), "0")
}

func (v *vm) ephemeral(t *testing.T) {
	key := hostKey(t, "192.168.83.2")
	v.in(t, "sudo touch /etc/forgotten && touch ~/forgotten && echo kept > /workspace/kept")
	v.in(t, `mkdir -p /tmp/p/DEBIAN /tmp/p/usr/bin && printf '#!/bin/sh\n' > /tmp/p/usr/bin/visitor && chmod 755 /tmp/p/usr/bin/visitor &&
		printf 'Package: visitor\nVersion: 1\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: for a while\n' > /tmp/p/DEBIAN/control &&
		dpkg-deb -b /tmp/p /tmp/p.deb && sudo dpkg -i /tmp/p.deb && command -v visitor`)
	v.h.bield(t, "down", v.name)
	want(t, "state", string(v.h.status(t, v.name).State), string(spec.StateDown))
	v.h.bield(t, "up", v.name)
	for _, path := range []string{"/etc/forgotten", "~/forgotten"} {
		if out, code := v.h.try(t, v.name, "ls "+path); code == 0 {
			t.Errorf("%s is still there: %s", path, out)
		}
	}
	if out, code := v.h.try(t, v.name, "command -v visitor || dpkg -s visitor"); code == 0 {
		t.Errorf("an installed package is still there: %s", out)
	}
	want(t, "workspace", v.in(t, "cat /workspace/kept"), "kept")
	want(t, "host key", hostKey(t, "192.168.83.2"), key)
}

// hostKey asks a guest for its host keys as anybody may.
func hostKey(t *testing.T, ip string) string {
	t.Helper()
	out, err := exec.Command("ssh-keyscan", "-T", "10", ip).Output()
	if err != nil || len(out) == 0 {
		t.Fatalf("ssh-keyscan: %v: %s", err, out)
	}
	return string(out)
}
