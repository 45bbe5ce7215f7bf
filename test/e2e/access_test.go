package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"bield/internal/spec"
)

// sshd knocks with plain OpenSSH at what bield does not use.
func (v *vm) sshd(t *testing.T) {
	key := filepath.Join(v.h.state, "_bield", "keys", fmt.Sprint(guestUID), "id_ed25519")
	known := filepath.Join(v.h.run, "vms", v.name, "known_hosts")
	ssh := func(args ...string) (string, error) {
		base := []string{"-F", "none", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "GlobalKnownHostsFile=none",
			"-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile=" + known, "-o", "IdentityAgent=none"}
		out, err := exec.Command("ssh", append(base, args...)...).CombinedOutput()
		return string(out), err
	}
	out, err := ssh("-i", key, "-o", "IdentitiesOnly=yes", "dev@192.168.83.2", "id", "-un")
	if err != nil || strings.TrimSpace(out) != "dev" {
		t.Errorf("the user's key: %v %s", err, out)
	}
	out, err = ssh("-i", key, "-o", "IdentitiesOnly=yes", "root@192.168.83.2", "id")
	if err == nil || !strings.Contains(out, "Permission denied") {
		t.Errorf("root was let in: %s", out)
	}
	out, err = ssh("-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password,keyboard-interactive", "dev@192.168.83.2", "id")
	if err == nil || !strings.Contains(out, "Permission denied (publickey)") {
		t.Errorf("methods other than keys are offered: %s", out)
	}
	other := v.otherKey(t)
	out, err = ssh("-i", other, "-o", "IdentitiesOnly=yes", "dev@192.168.83.2", "id")
	if err == nil || !strings.Contains(out, "Permission denied") {
		t.Errorf("a key that nobody authorized was let in: %s", out)
	}
	public, err := os.ReadFile(other + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	wrong := filepath.Join(v.h.base, "known_wrong")
	if err := os.WriteFile(wrong, []byte("192.168.83.2 "+string(public)), 0o644); err != nil {
		t.Fatal(err)
	}
	known = wrong
	out, err = ssh("-i", key, "dev@192.168.83.2", "id")
	if err == nil || !strings.Contains(out, "Host key verification failed") {
		t.Errorf("a guest under another host key was taken: %s", out)
	}
	want(t, "kinds of host keys", strings.Join(strings.Fields(hostKeyKinds(t)), " "), "ssh-ed25519")
}

func (v *vm) otherKey(t *testing.T) string {
	t.Helper()
	path := filepath.Join(v.h.base, "other")
	run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
	return path
}

func hostKeyKinds(t *testing.T) string {
	t.Helper()
	var kinds strings.Builder
	for line := range strings.Lines(hostKey(t, "192.168.83.2")) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == "192.168.83.2" {
			kinds.WriteString(words[1] + "\n")
		}
	}
	return kinds.String()
}

// processes looks at what serves the guest, from the host.
func (v *vm) processes(t *testing.T) {
	all := descendants(v.h.serving(t))
	v.grouped(t, all)
	vmms, servers := 0, 0
	for _, p := range all {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
		if err != nil {
			t.Errorf("%s ended: %v", p.command, err)
			continue
		}
		text := string(status)
		vmm := strings.Contains(p.command, "qemu-system")
		if vmm {
			vmms++
		} else {
			servers++
		}
		for _, uid := range strings.Fields(field(text, "Uid")) {
			if uid == "0" {
				t.Errorf("%s runs as host uid 0", p.command)
			}
		}
		want(t, "no_new_privs of "+p.command, field(text, "NoNewPrivs"), "1")
		v.capabilities(t, p, text)
		if vmm {
			v.emptyNetwork(t, p)
		}
	}
	if vmms != 1 || servers < 5 {
		t.Errorf("%d VMMs and %d virtiofsd serve the guest: %v", vmms, servers, all)
	}
}

// capDacReadSearch is CAP_DAC_READ_SEARCH of linux/capability.h, as a bit. It
// opens file handles where the limit of descriptors cannot be raised.
const capDacReadSearch = 1 << 2

// capabilities count only in the user namespace that they are held in. On the
// host nothing has any in effect; the launcher that opens file handles for a
// virtiofsd may raise one.
func (v *vm) capabilities(t *testing.T, p proc, status string) {
	t.Helper()
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", p.pid))
	if err != nil {
		t.Fatal(err)
	}
	hosts, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		t.Fatal(err)
	}
	if own != hosts {
		return
	}
	allowed := uint64(0)
	if strings.HasPrefix(p.command, "bield-launch") {
		allowed = capDacReadSearch
	}
	for name, may := range map[string]uint64{"CapEff": 0, "CapAmb": 0, "CapInh": 0, "CapPrm": allowed} {
		set, err := strconv.ParseUint(field(status, name), 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		if set&^may != 0 {
			t.Errorf("%s of %q on the host: %x", name, p.command, set)
		}
	}
}

// descendants adds the children of processes, and theirs.
func descendants(of []proc) []proc {
	every := processes()
	for i := 0; i < len(of); i++ {
		for _, p := range every {
			if p.parent == of[i].pid && !zombie(p.pid) {
				of = append(of, p)
			}
		}
	}
	return of
}

func (v *vm) emptyNetwork(t *testing.T, p proc) {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", p.pid))
	if err != nil {
		t.Fatal(err)
	}
	if links := strings.Count(string(data), ":"); links != 1 || !strings.Contains(string(data), "lo:") {
		t.Errorf("the VMM sees links:\n%s", data)
	}
}

// down compares the machine with what it was.
func (v *vm) down(t *testing.T, before map[string]string) {
	limits := v.limits(t)
	v.h.bield(t, "down", v.name)
	ungrouped(t, limits)
	after := settings(t)
	for key := range before {
		want(t, key, after[key], before[key])
	}
	for key := range after {
		if _, was := before[key]; !was {
			t.Errorf("left over: %s %s", key, after[key])
		}
	}
	if left := v.h.serving(t); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
	want(t, "files in the run directory", runFiles(t, v.h.run), "bieldd.lock bieldd.log bieldd.sock events.log state.json")
	for _, name := range []string{"ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"} {
		path := filepath.Join(v.h.state, v.name, "ssh-host-keys", name)
		uid, _ := owner(t, path)
		want(t, "owner of "+name, fmt.Sprint(uid), fmt.Sprint(guestUID))
	}
	want(t, "state", string(v.h.status(t, v.name).State), string(spec.StateDown))
	contains(t, "console of the last boot", v.h.bield(t, "logs", v.name), "bield")
}

// runFiles lists every file below the run directory.
func runFiles(t *testing.T, dir string) string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, " ")
}

// TestTwoInits runs two VMs at once with different images: both values of
// storeOnDisk, both inits, and the other two combinations after them.
func TestTwoInits(t *testing.T) {
	h := newHost(t)
	work := h.folder(t, "work", guestUID, guestGID)
	h.configure(t, fmt.Sprintf(`  disk-systemd: {ip: 192.168.83.3, workspace: %[1]s, mem: 1G, storeOnDisk: true, init: systemd}
  share-bield: {ip: 192.168.83.4, workspace: %[1]s, mem: 1G, extraPackages: [%[2]s]}
  disk-bield: {ip: 192.168.83.5, workspace: %[1]s, mem: 1G, storeOnDisk: true}
  share-systemd: {ip: 192.168.83.6, workspace: %[1]s, mem: 1G, init: systemd}
`, work, extraPackage))
	for _, pair := range [][]string{{"disk-systemd", "share-bield"}, {"disk-bield", "share-systemd"}} {
		h.bield(t, append([]string{"up"}, pair...)...)
		for _, name := range pair {
			t.Run(name, func(t *testing.T) { bootsAs(t, h, name, work) })
		}
		if pair[1] == "share-bield" {
			one, two := h.status(t, pair[0]).Image, h.status(t, pair[1]).Image
			if one == two || one == "" {
				t.Errorf("the images are not different: %s %s", one, two)
			}
			if _, code := h.try(t, pair[0], "command -v "+extraPackage); code == 0 {
				t.Errorf("%s has the other image's package", pair[0])
			}
		}
		began := time.Now()
		h.bield(t, append([]string{"down"}, pair...)...)
		t.Logf("down of %v: %s", pair, time.Since(began).Round(time.Millisecond))
	}
}

func bootsAs(t *testing.T, h *host, name, work string) {
	init := h.in(t, name, "ps -o comm= -p 1")
	if systemd := strings.Contains(name, "systemd"); systemd != (init == "systemd") {
		t.Errorf("PID 1 is %q", init)
	}
	_, code := h.try(t, name, "test -e /sys/fs/erofs/vda")
	if disk := strings.Contains(name, "disk"); disk != (code == 0) {
		t.Errorf("root on an EROFS disk: %v", code == 0)
	}
	want(t, "host name", h.in(t, name, "hostname"), name)
	want(t, "route", strings.Fields(h.in(t, name, "ip route show default"))[2], "192.168.83.1")
	want(t, "addresses", h.in(t, name, "ip -4 -br addr show scope global | wc -l"), "1")
	h.in(t, name, "sudo -n touch /etc/x && echo "+name+" > /workspace/"+name)
	text, err := os.ReadFile(filepath.Join(work, name))
	if err != nil || strings.TrimSpace(string(text)) != name {
		t.Errorf("workspace: %q %v", text, err)
	}
	contains(t, "internet", h.in(t, name, "curl -sS --max-time 10 http://"+internetServer+"/"), externalAddress+":")
}
