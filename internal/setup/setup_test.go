package setup

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"bield/internal/apt"
)

const (
	rust113 = "#!/bin/sh\necho virtiofsd 1.13.2\n"
	rust110 = "#!/bin/sh\necho virtiofsd 1.10.1\n"
	inC     = "#!/bin/sh\necho 'virtiofsd version 7.2.17 (Debian 1:7.2)'\necho 'using FUSE kernel interface version 7.36'\n"
	debian  = "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\nPRETTY_NAME=\"Debian 12\"\n"
)

func require(t *testing.T, ok bool, reason string) {
	t.Helper()
	switch {
	case ok:
	case os.Getenv("BIELD_TEST_REQUIRE") == "1":
		t.Fatal("required: " + reason)
	default:
		t.Skip(reason)
	}
}

// newHost is a host with this os-release, these files, and all programs but
// those in lacks.
func newHost(t *testing.T, release string, files map[string]string, lacks ...string) Host {
	t.Helper()
	root := t.TempDir()
	all := map[string]string{"etc/os-release": release}
	for _, p := range programs("amd64") {
		if !slices.Contains(lacks, p.name) {
			all["bin/"+p.name] = "#!/bin/sh\n"
		}
	}
	for name, text := range files {
		all[name] = text
	}
	for name, text := range all {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return Host{Root: root, Path: []string{filepath.Join(root, "bin")}, CacheDir: filepath.Join(root, "cache"), Arch: "amd64"}
}

func TestVirtiofsd(t *testing.T) {
	const loader = "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
	tests := []struct {
		name  string
		files map[string]string
		want  string // the program's path below the host's root
		err   string
	}{
		{"the system's", map[string]string{"usr/libexec/virtiofsd": rust113}, "usr/libexec/virtiofsd", ""},
		{"in the path", map[string]string{"bin/virtiofsd": rust113}, "bin/virtiofsd", ""},
		{"the one in C is passed over", map[string]string{"usr/lib/qemu/virtiofsd": inC, "usr/lib/virtiofsd": rust113}, "usr/lib/virtiofsd", ""},
		{"none", nil, "", "no virtiofsd 1.13 or newer: run `bield setup`"},
		{"only the one in C", map[string]string{"usr/lib/qemu/virtiofsd": inC}, "", "usr/lib/qemu/virtiofsd is the one written in C"},
		{"too old", map[string]string{"usr/libexec/virtiofsd": rust110}, "", "usr/libexec/virtiofsd is 1.10.1"},
		{"broken", map[string]string{"usr/libexec/virtiofsd": "#!/bin/sh\nexit 1\n"}, "", "is not to be run"},
		// The loader stands for itself: it is given the program as an argument.
		{"unpacked, the newest", map[string]string{
			"cache/tools/virtiofsd-1.9.0/" + loader:                  rust113,
			"cache/tools/virtiofsd-1.13.2-1+deb13u1/" + loader:       rust113,
			"cache/tools/virtiofsd-1.13.2-1/" + loader:               rust113,
			"cache/tools/.tmp-1/root/" + loader:                      rust113,
			"cache/tools/virtiofsd-1.13.2-1/usr/libexec/virtiofsd":   "",
			"cache/tools/virtiofsd-1.14.0-bad/usr/libexec/virtiofsd": "",
		}, "cache/tools/virtiofsd-1.13.2-1+deb13u1/usr/libexec/virtiofsd", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t, debian, tt.files)
			argv, err := h.Virtiofsd(t.Context())
			if tt.err != "" {
				if !errors.Is(err, ErrNoVirtiofsd) || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil || argv[len(argv)-1] != filepath.Join(h.Root, tt.want) {
				t.Errorf("got %q, %v", argv, err)
			}
			if strings.HasPrefix(tt.want, "cache") && (len(argv) != 5 || !strings.HasSuffix(argv[0], loader) || argv[2] != "--library-path") {
				t.Errorf("command %q", argv)
			}
		})
	}
}

func TestParseVersion(t *testing.T) {
	for out, ok := range map[string]bool{
		"virtiofsd 1.13.0\n": true, "virtiofsd 1.13.2-dev\n": true, "virtiofsd 2.0.0": true, "virtiofsd backend 1.14.0": true,
		"virtiofsd 1.12.9": false, "virtiofsd 0.99.0": false, "virtiofsd version 7.2.0": false, "": false,
	} {
		if _, err := parseVersion(out); (err == nil) != ok {
			t.Errorf("%q: %v", out, err)
		}
	}
}

func TestMissing(t *testing.T) {
	tests := []struct {
		name, release string
		files         map[string]string
		lacks         []string
		want          string
	}{
		{"nothing", debian, map[string]string{"usr/libexec/virtiofsd": rust113}, nil, ""},
		{"Debian 12", debian, nil, []string{"mmdebstrap", "nft", "qemu-system-x86_64"},
			"qemu-system-x86_64=qemu-system-x86 mmdebstrap=mmdebstrap nft=nftables? virtiofsd="},
		{"Debian 13", strings.ReplaceAll(debian, "12", "13"), nil, []string{"newuidmap", "mkfs.erofs", "ssh"},
			"newuidmap=uidmap mkfs.erofs=erofs-utils ssh=openssh-client virtiofsd=virtiofsd"},
		{"Fedora", "ID=fedora\nVERSION_ID=42\n", nil, []string{"qemu-system-x86_64"},
			"qemu-system-x86_64=qemu-system-x86-core virtiofsd=virtiofsd"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			needs, err := newHost(t, tt.release, tt.files, tt.lacks...).Missing(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, n := range needs {
				text := n.Program + "=" + n.Package
				if n.Optional {
					text += "?"
				}
				if n.Purpose == "" {
					t.Errorf("%s has no purpose", n.Program)
				}
				got = append(got, text)
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("got %v, want %s", got, tt.want)
			}
		})
	}
	if _, err := (Host{Root: t.TempDir()}).Missing(t.Context()); err == nil {
		t.Error("no error without os-release")
	}
}

func TestInstallByHand(t *testing.T) {
	err := newHost(t, "ID=fedora\n", nil, "mmdebstrap").Install(t.Context(), nil)
	if !errors.Is(err, ErrByHand) || !strings.HasSuffix(err.Error(), ": sudo dnf install mmdebstrap virtiofsd") {
		t.Errorf("error %v", err)
	}
}

// fakeApt puts a script in the path as apt-get that notes its arguments.
func fakeApt(t *testing.T, script string) (calls func() string) {
	t.Helper()
	require(t, os.Geteuid() == 0, "needs root")
	dir := t.TempDir()
	log := filepath.Join(dir, "calls")
	text := "#!/bin/sh\necho \"$DEBIAN_FRONTEND $*\" >>" + log + "\n" + script
	if err := os.WriteFile(filepath.Join(dir, "apt-get"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() string {
		data, _ := os.ReadFile(log)
		return string(data)
	}
}

func TestInstallPackages(t *testing.T) {
	h := newHost(t, strings.ReplaceAll(debian, "12", "13"), nil, "mmdebstrap", "nft")
	calls := fakeApt(t, `case "$*" in
*install*) printf 'Unpacking x (1) ...\nnoise\nSetting up x (1) ...\n'
mkdir -p "`+h.Root+`/usr/libexec"; printf '#!/bin/sh\necho virtiofsd 1.13.2\n' >"`+h.Root+`/usr/libexec/virtiofsd"
chmod +x "`+h.Root+`/usr/libexec/virtiofsd";; esac
`)
	var lines []string
	if err := h.Install(t.Context(), func(s string) { lines = append(lines, s) }); err != nil {
		t.Fatal(err)
	}
	want := "noninteractive -q -y update\nnoninteractive -q -y install --no-install-recommends -o DPkg::Lock::Timeout=300 mmdebstrap nftables virtiofsd\n"
	if got := calls(); got != want {
		t.Errorf("apt was called so:\n%s", got)
	}
	if want := []string{"apt-get update", "apt-get install mmdebstrap nftables virtiofsd", "Unpacking x (1)", "Setting up x (1)"}; !slices.Equal(lines, want) {
		t.Errorf("progress %q", lines)
	}
}

func TestInstallErrors(t *testing.T) {
	trixie := strings.ReplaceAll(debian, "12", "13")
	tests := []struct{ name, release, script, want string }{
		{"unreachable", trixie, "echo \"E: Failed to fetch http://a.test/x  Could not resolve 'a.test'\"; exit 100\n",
			"read the package lists: package source http://a.test/x: Could not resolve 'a.test'"},
		{"silent", trixie, "exit 7\n", "apt-get update: exit status 7"},
		{"no virtiofsd after all", trixie, "exit 0\n", "cargo install virtiofsd"},
		{"no source for the unpacked one", debian, "exit 0\n", "no package source of the distribution itself"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fakeApt(t, tt.script)
			err := newHost(t, tt.release, nil, "mmdebstrap").Install(t.Context(), nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// TestVirtiofsdCancelled: one that could not be asked is not one that lacks.
func TestVirtiofsdCancelled(t *testing.T) {
	h := newHost(t, debian, map[string]string{"usr/libexec/virtiofsd": rust113})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Virtiofsd(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, ErrNoVirtiofsd) {
		t.Errorf("find: %v", err)
	}
	if needs, err := h.Missing(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("list: %v, %v", needs, err)
	}
}

func TestInstallCancelled(t *testing.T) {
	fakeApt(t, "echo 'Unpacking x'\nexec sleep 600\n")
	ctx, cancel := context.WithCancel(t.Context())
	err := newHost(t, debian, nil, "mmdebstrap").Install(ctx, func(line string) {
		if line == "Unpacking x" {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// TestInstallVirtiofsd unpacks the real one, by way of the host's own mirrors.
func TestInstallVirtiofsd(t *testing.T) {
	release, err := apt.HostRelease("/")
	require(t, err == nil && release.ID == "debian", "needs Debian")
	for _, program := range []string{"apt-get", "dpkg-deb"} {
		_, err := exec.LookPath(program)
		require(t, err == nil, "needs "+program)
	}
	h := Host{CacheDir: t.TempDir()}
	if err := os.Chmod(h.CacheDir, 0o755); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(h.tools(), ".tmp-interrupted")
	if err := os.MkdirAll(left, 0o755); err != nil {
		t.Fatal(err)
	}
	sources, err := h.bundleSources(release)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.unpack(t.Context(), sources); err != nil {
		t.Fatal(err)
	}
	if len(h.bundles()) != 1 {
		t.Fatalf("unpacked: %v", h.bundles())
	}
	argv := h.bundles()[0]
	if version, err := virtiofsdVersion(t.Context(), argv); err != nil {
		t.Errorf("version %s, %v", version, err)
	}
	checkReadable(t, h.tools())
	if entries, _ := os.ReadDir(h.tools()); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func checkReadable(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir), func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Mode()&os.ModeSymlink != 0 || d.Name() == "lock" {
			return err
		}
		mode := info.Mode()
		if mode&0o022 != 0 || mode&0o444 != 0o444 || mode&(os.ModeSetuid|os.ModeSetgid) != 0 || d.IsDir() && mode&0o111 != 0o111 {
			t.Errorf("%s is %v", path, mode)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
