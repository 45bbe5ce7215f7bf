package setup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAdvice goes by the os-release files of real distributions.
func TestAdvice(t *testing.T) {
	byHand := []string{"install by hand: qemu-system-x86_64, mmdebstrap, newuidmap, mkfs.erofs, ssh, nft, virtiofsd"}
	setUp := []string{"sudo bield setup"}
	dnf := []string{"sudo dnf install qemu-system-x86-core mmdebstrap shadow-utils erofs-utils openssh-clients nftables virtiofsd"}
	arch := []string{
		"sudo pacman -S --needed qemu-system-x86 shadow erofs-utils openssh nftables virtiofsd",
		"from the AUR, by a helper such as paru or yay: paru -S mmdebstrap",
	}
	const nixPackages = "qemu mmdebstrap shadow erofs-utils openssh nftables virtiofsd"
	nix := []string{
		"in configuration.nix: environment.systemPackages = with pkgs; [ " + nixPackages + " ]; then sudo nixos-rebuild switch",
		"or for one shell: nix-shell -p " + nixPackages,
	}
	for file, want := range map[string][]string{
		"debian12": setUp, "debian13": setUp, "ubuntu2404": setUp, "mint22": setUp,
		"fedora42": dnf, "rocky9": dnf, "arch": arch, "manjaro": arch, "nixos2505": nix,
		"opensuse": byHand, "": byHand,
	} {
		t.Run(file, func(t *testing.T) {
			h := Host{Root: t.TempDir(), Path: []string{t.TempDir()}, CacheDir: t.TempDir(), Arch: "amd64"}
			needs, err := Host{Root: release(t, "fedora42"), Path: h.Path, CacheDir: h.CacheDir, Arch: h.Arch}.Missing(t.Context())
			if file != "" {
				h.Root = release(t, file)
				needs, err = h.Missing(t.Context())
			}
			if err != nil || len(needs) != 7 {
				t.Fatalf("%v, %v", needs, err)
			}
			if got := h.Advice(needs); strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

// TestAdviceOnArm64: only QEMU is another package there.
func TestAdviceOnArm64(t *testing.T) {
	for file, want := range map[string]string{
		"fedora42": "sudo dnf install qemu-system-aarch64-core mmdebstrap",
		"arch":     "sudo pacman -S --needed qemu-system-aarch64 shadow", "nixos2505": "[ qemu mmdebstrap",
		"opensuse": "install by hand: qemu-system-aarch64, mmdebstrap",
	} {
		h := Host{Root: release(t, file), Path: []string{t.TempDir()}, CacheDir: t.TempDir(), Arch: "arm64"}
		needs, err := h.Missing(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(h.Advice(needs), "\n"); !strings.Contains(got, want) {
			t.Errorf("%s: %s", file, got)
		}
	}
	h := Host{Root: release(t, "debian12"), Path: []string{t.TempDir()}, CacheDir: t.TempDir(), Arch: "arm64"}
	needs, err := h.Missing(t.Context())
	if err != nil || needs[0].Program != "qemu-system-aarch64" || needs[0].Package != "qemu-system-arm" {
		t.Errorf("Debian: %+v, %v", needs, err)
	}
}

// release is a root with one of the os-release files of testdata.
func release(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "os-release", name))
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc/os-release"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestTools(t *testing.T) {
	h := newHost(t, debian, map[string]string{
		"bin/qemu-system-x86_64": "#!/bin/sh\necho 'QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg)'\n",
		"usr/libexec/virtiofsd":  rust113,
	}, "mkfs.erofs")
	tools := toolsOf(t, h)
	if q := tools["qemu-system-x86_64"]; q.Version != "7.2.22" || q.Problem != "" || !strings.HasSuffix(q.Path, "/bin/qemu-system-x86_64") {
		t.Errorf("QEMU: %+v", q)
	}
	if v := tools["virtiofsd"]; v.Version != "1.13.2" || v.Problem != "" || !strings.HasSuffix(v.Path, "/usr/libexec/virtiofsd") {
		t.Errorf("virtiofsd: %+v", v)
	}
	if m := tools["mkfs.erofs"]; m.Path != "" || m.Package != "erofs-utils" {
		t.Errorf("mkfs.erofs: %+v", m)
	}
	if n := tools["nft"]; n.Path == "" || !n.Optional {
		t.Errorf("nft: %+v", n)
	}
}

func TestToolsThatDoNotDo(t *testing.T) {
	h := newHost(t, debian, map[string]string{"bin/qemu-system-x86_64": "#!/bin/sh\nexit 1\n", "usr/lib/qemu/virtiofsd": inC})
	tools := toolsOf(t, h)
	if q := tools["qemu-system-x86_64"]; !strings.Contains(q.Problem, "is not to be run: exit status 1") {
		t.Errorf("QEMU: %+v", q)
	}
	if v := tools["virtiofsd"]; v.Path != "" || !strings.Contains(v.Problem, "no virtiofsd 1.13 or newer (") || !strings.Contains(v.Problem, "written in C") {
		t.Errorf("virtiofsd: %+v", v)
	}
}

func toolsOf(t *testing.T, h Host) map[string]Tool {
	t.Helper()
	all, err := h.Tools(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]Tool{}
	for _, tool := range all {
		byName[tool.Program] = tool
	}
	return byName
}
