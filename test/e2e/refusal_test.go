package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"bield/test/fakes"
)

// TestRefused asks for what is not safe: nothing may start, nothing may be left.
func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(t *testing.T, h *host)
		says    []string
	}{
		"a file inside a workspace": {func(t *testing.T, h *host) {
			work := h.folder(t, "work", guestUID, guestGID)
			h.config = filepath.Join(work, "bield.yaml")
			h.configure(t, minimal(work))
		}, []string{"bield.yaml", "chown"}},
		"a file that others may write": {func(t *testing.T, h *host) {
			h.configure(t, minimal(h.folder(t, "work", guestUID, guestGID)))
			if err := os.Chmod(h.config, 0o666); err != nil {
				t.Fatal(err)
			}
		}, []string{"bield.yaml", "chmod"}},
		"a file in a folder that others may write": {func(t *testing.T, h *host) {
			h.configure(t, minimal(h.folder(t, "work", guestUID, guestGID)))
			if err := os.Chmod(filepath.Dir(h.config), 0o777); err != nil {
				t.Fatal(err)
			}
		}, []string{"etc", "chmod"}},
		"a file behind a link in a workspace": {func(t *testing.T, h *host) {
			work := h.folder(t, "work", guestUID, guestGID)
			h.configure(t, minimal(work))
			link := filepath.Join(work, "link.yaml")
			if err := os.Symlink(h.config, link); err != nil {
				t.Fatal(err)
			}
			h.config = link
		}, []string{"link.yaml"}},
		"a share of root's": {func(t *testing.T, h *host) {
			text := fmt.Sprintf("stateDir: %s\nvms:\n%s", h.state, minimal(h.folder(t, "work", guestUID, guestGID)))
			text += fmt.Sprintf("    user: {name: dev, uid: %d, gid: %d}\n", guestUID, guestGID)
			text += fmt.Sprintf("    shares: [{source: %s, mountPoint: /mnt/roots}]\n", h.folder(t, "roots", 0, 0))
			text = strings.Replace(text, "    user:", "    user:", 1)
			if err := os.WriteFile(h.config, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}, []string{"root", "readOnly", "user"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			before := settings(t)
			c.prepare(t, h)
			out := h.fails(t, "up")
			contains(t, "the error", out, c.says...)
			nothingLeft(t, h, before)
		})
	}
}

func minimal(workspace string) string {
	return fmt.Sprintf("  one:\n    ip: 192.168.83.9\n    workspace: %s\n    mem: 512\n", workspace)
}

// nothingLeft compares the machine with what it was before a failed up.
func nothingLeft(t *testing.T, h *host, before map[string]string) {
	t.Helper()
	after := settings(t)
	for key := range after {
		want(t, key, after[key], before[key])
	}
	if left := h.serving(t); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
	if _, err := os.Stat(h.run); err == nil {
		for file := range strings.FieldsSeq(runFiles(t, h.run)) {
			if !slices.Contains([]string{"state.json", "fates.json", "events.log"}, file) && !strings.HasPrefix(file, "bieldd.") {
				t.Errorf("left in the run directory: %s", file)
			}
		}
	}
}

// TestBroken starts VMs on hosts that lack something: one clear error each, and
// nothing left behind.
func TestBroken(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(t *testing.T, h *host)
		says    []string
	}{
		"no folder of host keys":       {fileForHostKeys, []string{"ssh-host-keys", "no folder"}},
		"a host key it cannot read":    {unreadableHostKey, []string{"hostkeys", "ssh_host_ed25519_key"}},
		"no image, source unreachable": {unreachableSource, []string{"image", "package source"}},
		"an image without its kernel":  {damagedImage, []string{"image", "package source"}},
		"the state disk is full":       {fullState, []string{"no space left"}},
		"no QEMU":                      {withoutQEMU, []string{fakes.QEMU(), "bield setup"}},
		"no virtiofsd":                 {withoutVirtiofsd, []string{"virtiofsd", "bield setup"}},
		"no permission for workspace":  {closedWorkspace, []string{"work", "open"}},
		"no permission for the host":   {asNobody, []string{"bieldd is not running", "sudo"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			before := settings(t)
			h.configure(t, minimal(h.folder(t, "work", guestUID, guestGID)))
			c.prepare(t, h)
			before["mounts"] = settings(t)["mounts"]
			out := h.fails(t, "up")
			t.Log(out)
			contains(t, "the error", out, c.says...)
			if lines := strings.Count(out, "bield: "); lines != 1 {
				t.Errorf("%d errors are printed", lines)
			}
			nothingLeft(t, h, before)
		})
	}
}

// unreadableHostKey leaves a key that root on the host can read, but nobody
// who serves the share.
func unreadableHostKey(t *testing.T, h *host) {
	h.folder(t, "state/one", guestUID, guestGID)
	dir := h.folder(t, "state/one/ssh-host-keys", guestUID, guestGID)
	path := filepath.Join(dir, "ssh_host_ed25519_key")
	run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
	for _, p := range []string{path, path + ".pub"} {
		if err := os.Chmod(p, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// fileForHostKeys puts something else in the place of the share.
func fileForHostKeys(t *testing.T, h *host) {
	h.write(t, filepath.Join(h.folder(t, "state/one", guestUID, guestGID), "ssh-host-keys"), "no folder\n")
}

// damagedImage takes the kernel out of every image of the machine's cache, seen
// through an overlay; they cannot be built anew here.
func damagedImage(t *testing.T, h *host) {
	h.cache = h.folder(t, "cache", 0, 0)
	upper, work := h.folder(t, "upper", 0, 0), h.folder(t, "work-overlay", 0, 0)
	options := fmt.Sprintf("redirect_dir=on,lowerdir=%s,upperdir=%s,workdir=%s", machineCache(), upper, work)
	if err := unix.Mount("overlay", h.cache, "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(h.cache, unix.MNT_DETACH) })
	kernels, err := filepath.Glob(filepath.Join(h.cache, "images", "*", "vmlinux"))
	if err != nil || len(kernels) == 0 {
		t.Fatal(kernels, err)
	}
	for _, kernel := range kernels {
		if err := os.Remove(kernel); err != nil {
			t.Fatal(err)
		}
	}
}

func unreachableSource(t *testing.T, h *host) {
	h.cache = h.folder(t, "cache", 0, 0)
	linkTools(t, h.cache)
}

// linkTools gives an empty cache the tools of the machine's.
func linkTools(t *testing.T, cache string) {
	t.Helper()
	tools := filepath.Join(machineCache(), "tools")
	if _, err := os.Stat(tools); err != nil {
		return // the distribution has its own virtiofsd
	}
	if err := os.Mkdir(filepath.Join(cache, "tools"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(tools, filepath.Join(cache, "tools"), "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(cache, "tools"), unix.MNT_DETACH) })
}

func machineCache() string {
	if dir := os.Getenv("BIELD_CACHE_DIR"); dir != "" {
		return dir
	}
	return "/var/cache/bield"
}

func fullState(t *testing.T, h *host) {
	dir := h.folder(t, "state", 0, 0)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=32k,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 64<<10), 0o644); err == nil {
		t.Fatal("the small disk is not full")
	}
}

// withoutQEMU hides the program: an empty file over it in this mount namespace.
func withoutQEMU(t *testing.T, h *host) {
	path := strings.TrimSpace(run(t, "sh", "-c", "readlink -f $(command -v "+fakes.QEMU()+")"))
	hide(t, h, path)
}

func withoutVirtiofsd(t *testing.T, h *host) {
	h.cache = h.folder(t, "cache", 0, 0)
	for _, path := range []string{"/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"} {
		if _, err := os.Stat(path); err == nil {
			hide(t, h, path)
		}
	}
}

// hide puts a file that cannot be executed over a program.
func hide(t *testing.T, h *host, path string) {
	t.Helper()
	empty := filepath.Join(h.base, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(empty, path, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
}

// asNobody asks as a user who may not do anything here.
func asNobody(_ *testing.T, h *host) { h.caller = &syscall.Credential{Uid: 65534, Gid: 65534} }

// closedWorkspace is a workspace that the user who serves it may not enter.
func closedWorkspace(t *testing.T, h *host) {
	if err := os.Chmod(filepath.Join(h.base, "work"), 0); err != nil {
		t.Fatal(err)
	}
}
