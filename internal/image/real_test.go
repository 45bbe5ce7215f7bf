package image

import (
	"bytes"
	"cmp"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"bield/internal/apt"
	"bield/internal/spec"
)

// realImage is the default image of this host, built where the cache lacks it.
func realImage(t *testing.T) Image {
	t.Helper()
	require(t, os.Geteuid() == 0, "needs root")
	for _, program := range []string{"mmdebstrap", "mkfs.erofs", "dump.erofs"} {
		_, err := exec.LookPath(program)
		require(t, err == nil, "needs "+program)
	}
	release, err := apt.HostRelease("/")
	require(t, err == nil && release.Archive(), "needs Debian or Ubuntu")
	in, err := Resolve(spec.Image{})
	if err != nil {
		t.Fatal(err)
	}
	store := Store{Dir: filepath.Join(cmp.Or(os.Getenv("BIELD_CACHE_DIR"), "/var/cache/bield"), "images")}
	img, err := store.Build(t.Context(), in, func(p Progress) {
		if p.Detail == "" {
			t.Log(p.Step)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestRealImage(t *testing.T) {
	img := realImage(t)
	root, err := os.OpenRoot(img.Root())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	t.Run("nothing of the builder's", func(t *testing.T) { checkClean(t, root) })
	t.Run("programs", func(t *testing.T) { checkPrograms(t, root) })
	t.Run("owners", func(t *testing.T) { checkOwners(t, img) })
	t.Run("kernel", func(t *testing.T) { checkKernel(t, img) })
	t.Run("disk", func(t *testing.T) { checkDisk(t, img) })
}

func checkClean(t *testing.T, root *os.Root) {
	t.Helper()
	for _, empty := range []string{"etc/machine-id", "etc/resolv.conf"} {
		info, err := root.Lstat(empty)
		if err != nil || !info.Mode().IsRegular() || info.Size() != 0 {
			t.Errorf("%s is no empty file: %v, %v", empty, info, err)
		}
	}
	for _, none := range []string{"etc/ssh/ssh_host_*", "etc/hostname", "etc/apt/sources.list",
		"etc/apt/apt.conf.d/99mmdebstrap", "etc/apt/auth.conf.d/*", "var/lib/apt/lists/*_*", "var/log/apt/*", "tmp/*", "var/cache/apt/archives/*.deb",
		"etc/systemd/system/multi-user.target.wants/ssh.service", "usr/share/man/man1/*"} {
		if found, _ := fs.Glob(root.FS(), none); len(found) != 0 {
			t.Errorf("%s: %v", none, found)
		}
	}
	if found, _ := fs.Glob(root.FS(), "etc/apt/sources.list.d/*"); len(found) != 1 || filepath.Base(found[0]) != "bield.sources" {
		t.Errorf("sources: %v", found)
	}
	shadow, err := root.ReadFile("etc/shadow")
	if err != nil || !regexp.MustCompile(`(?m)^root:[!*]`).Match(shadow) {
		t.Errorf("root is not locked: %v", err)
	}
	sources, err := root.ReadFile("etc/apt/sources.list.d/bield.sources")
	if err != nil || regexp.MustCompile(`://[^/\s]*@`).Match(sources) {
		t.Errorf("sources %s, %v", sources, err)
	}
}

func checkPrograms(t *testing.T, root *os.Root) {
	t.Helper()
	for _, name := range []string{"git", "vim", "curl", "wget", "htop", "zsh", "sudo", "ssh", "rsync", "ps", "less", "ip"} {
		found, _ := fs.Glob(root.FS(), "usr/*bin/"+name)
		if len(found) == 0 {
			// alternatives lead to absolute links, which a root cannot follow
			if _, err := root.Lstat("usr/bin/" + name); err != nil {
				t.Errorf("%s is missing", name)
			}
		}
	}
	for _, name := range []string{"usr/sbin/sshd", "usr/lib/systemd/systemd", "usr/lib/locale/C.utf8", "usr/share/zsh/functions", "workspace"} {
		if _, err := root.Stat(name); err != nil {
			t.Error(err)
		}
	}
}

// checkOwners wants every file to belong to the image's range of uids.
func checkOwners(t *testing.T, img Image) {
	t.Helper()
	err := filepath.WalkDir(img.Root(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		for _, id := range []uint32{st.Uid, st.Gid} {
			if id < spec.ImageUIDBase || id >= spec.ImageUIDBase+spec.ImageUIDCount {
				t.Errorf("%s belongs to %d:%d", path, st.Uid, st.Gid)
			}
		}
		if info.Mode()&(fs.ModeDevice|fs.ModeCharDevice) != 0 {
			t.Errorf("%s is a device", path)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func checkKernel(t *testing.T, img Image) {
	t.Helper()
	kernel, err := os.ReadFile(img.Kernel())
	if err != nil {
		t.Fatal(err)
	}
	if img.Inputs.Arch == "amd64" {
		err = checkELF(kernel, "amd64")
	} else {
		_, err = checkImage(kernel)
	}
	if err != nil {
		t.Error(err)
	}
	if !bytes.Contains(kernel, []byte("Linux version "+img.Manifest.Kernel)) {
		t.Errorf("the kernel is not %s", img.Manifest.Kernel)
	}
	modules, err := os.ReadFile(img.Modules())
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, r := range readArchives(t, modules) {
		found[moduleName(r.Name)] = true
	}
	builtin, err := os.ReadFile(filepath.Join(img.Root(), "usr/lib/modules", img.Manifest.Kernel, "modules.builtin"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range wantedModules() {
		if !m.optional && !found[m.name] && !strings.Contains(string(builtin), "/"+m.name+".ko") {
			t.Errorf("module %s is missing", m.name)
		}
	}
}

func checkDisk(t *testing.T, img Image) {
	t.Helper()
	path, err := img.Disk(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o644 || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("disk %v, %v", info, err)
	}
	out, err := exec.CommandContext(t.Context(), "dump.erofs", "--path=/etc/passwd", path).CombinedOutput()
	if err != nil || !regexp.MustCompile(`Uid: 0\s+Gid: 0\s`).Match(out) {
		t.Errorf("the owner of /etc/passwd on the disk: %s, %v", out, err)
	}
	again, err := img.Disk(t.Context(), func(p Progress) { t.Errorf("made again: %s", p.Step) })
	if err != nil || again != path {
		t.Errorf("again: %s, %v", again, err)
	}
}
