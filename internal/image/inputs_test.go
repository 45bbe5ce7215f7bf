package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"bield/internal/apt"
	"bield/internal/spec"
)

const keyringPath = "/usr/share/keyrings/debian-archive-keyring.gpg"

const debianSources = "Types: deb\nURIs: http://me:secret@deb.example.org/debian\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: " + keyringPath +
	"\n\nTypes: deb\nURIs: http://security.example.org/debian-security\nSuites: bookworm-security\nComponents: main\n"

func writeFiles(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func debianHost(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	writeFiles(t, root, map[string]string{
		"etc/os-release":                        "ID=debian\nVERSION_CODENAME=bookworm\nPRETTY_NAME=\"Debian 12\"\n",
		"etc/apt/sources.list.d/debian.sources": debianSources,
		"etc/apt/sources.list.d/vendor.list":    "deb [signed-by=/etc/apt/keyrings/v.gpg] http://vendor.example.test bookworm main\n",
		keyringPath:                             "keys",
		"srv/ubuntu-keys.gpg":                   "other keys",
	})
	return root
}

func TestResolve(t *testing.T) {
	root := debianHost(t)
	tests := []struct {
		name string
		img  spec.Image
		want []string
	}{
		{"the host's own", spec.Image{}, []string{
			"http://deb.example.org/debian bookworm", "http://deb.example.org/debian bookworm-updates",
			"http://security.example.org/debian-security bookworm-security"}},
		{"another suite of the host's mirrors", spec.Image{Suite: "trixie"}, []string{
			"http://deb.example.org/debian trixie", "http://deb.example.org/debian trixie-updates",
			"http://security.example.org/debian-security trixie-security"}},
		{"the rolling suite", spec.Image{Suite: "sid"}, []string{"http://deb.example.org/debian sid"}},
		{"a mirror", spec.Image{Mirror: "https://u:p@mirror.example.test/debian"}, []string{"https://mirror.example.test/debian bookworm"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in, err := resolve(root, tt.img, "amd64")
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range in.Sources {
				got = append(got, s.URI+" "+s.Suite)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if text, _ := json.Marshal(in); strings.Contains(string(text), "secret") || strings.Contains(string(text), "u:p") {
				t.Errorf("credentials in %s", text)
			}
			if text := apt.Lines(in.download); !strings.Contains(text, ":") || strings.Contains(text, "vendor") {
				t.Errorf("to download from: %s", text)
			}
		})
	}
}

func TestResolvePackages(t *testing.T) {
	in, err := resolve(debianHost(t), spec.Image{Packages: []string{"jq", "zsh", "build-essential", "jq"}}, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range append(basePackages(), "jq", "build-essential") {
		if !slices.Contains(in.Packages, want) {
			t.Errorf("%s is missing", want)
		}
	}
	if !slices.IsSorted(in.Packages) || len(slices.Compact(slices.Clone(in.Packages))) != len(in.Packages) {
		t.Errorf("not sorted and unique: %v", in.Packages)
	}
	if in.Kernel != "linux-image-cloud-amd64" {
		t.Errorf("kernel %s", in.Kernel)
	}
}

// TestResolveArchitecture: what differs is the name and the kernel.
func TestResolveArchitecture(t *testing.T) {
	root := debianHost(t)
	want, err := resolve(root, spec.Image{}, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	want.Arch, want.Kernel = "arm64", "linux-image-cloud-arm64"
	if got, err := resolve(root, spec.Image{}, "arm64"); err != nil || got.Digest() != want.Digest() {
		t.Errorf("%+v, %v", got, err)
	}
	if args := mmdebstrapArgs(want, "root", "work"); !slices.Contains(args, "--architectures=arm64") {
		t.Errorf("mmdebstrap %q", args)
	}
	if _, err := resolve(root, spec.Image{}, "riscv64"); !errors.Is(err, ErrUnsupported) {
		t.Errorf("riscv64: %v", err)
	}
}

func TestResolveUbuntuKeyring(t *testing.T) {
	in, err := resolve(debianHost(t), spec.Image{Suite: "noble", Mirror: "http://ubuntu.example.test/ubuntu", Keyring: "/srv/ubuntu-keys.gpg"}, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	if in.Distribution != "ubuntu" || in.Kernel != "linux-image-virtual" || !slices.Equal(in.Sources[0].Components, []string{"main", "universe"}) {
		t.Errorf("got %+v", in)
	}
}

func TestResolveErrors(t *testing.T) {
	root := debianHost(t)
	fedora, bare := t.TempDir(), t.TempDir()
	writeFiles(t, fedora, map[string]string{"etc/os-release": "ID=fedora\nPRETTY_NAME=\"Fedora 42\"\n"})
	writeFiles(t, bare, map[string]string{"etc/os-release": "ID=debian\nVERSION_CODENAME=bookworm\n"})
	tests := []struct {
		root string
		img  spec.Image
		want string
	}{
		{fedora, spec.Image{}, "Fedora 42 has no Debian package sources of its own: set image.suite and image.mirror"},
		{fedora, spec.Image{Suite: "trixie", Mirror: "http://a.test"}, "install debian-archive-keyring or set image.keyring"},
		{bare, spec.Image{}, "set image.mirror"},
		{root, spec.Image{Keyring: "/srv/nonsuch.gpg"}, "keyring /srv/nonsuch.gpg does not exist"},
		{root, spec.Image{Keyring: "here.gpg"}, "no absolute path"},
		{root, spec.Image{Suite: "a b"}, "no name of a suite"},
		{root, spec.Image{Suite: "-x"}, "no name of a suite"},
		{root, spec.Image{Mirror: "ftp://a.test"}, "no http or https address"},
		{root, spec.Image{Mirror: "http://u:secret@a.test/ x"}, "no http or https address"},
		{root, spec.Image{Packages: []string{"--foo"}}, `extra package "--foo"`},
		{root, spec.Image{Packages: []string{"a,b"}}, `extra package "a,b"`},
	}
	for _, tt := range tests {
		_, err := resolve(tt.root, tt.img, "amd64")
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: error %v, want %q", tt.img, err, tt.want)
		}
	}
}

func TestDigest(t *testing.T) {
	root := debianHost(t)
	in, err := resolve(root, spec.Image{Packages: []string{"jq"}}, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	// Another digest for the same image would build every image again.
	const golden = "a5b546b670ee3e68b4008ebc8ef26e8a7aec8d205f37e336e2f6b8cbedc314de"
	if got := in.Digest(); got != golden {
		t.Errorf("digest %s, want %s", got, golden)
	}
	digests := map[string]bool{in.Digest(): true}
	for name, change := range map[string]func(in *Inputs){
		"recipe":    func(in *Inputs) { in.Recipe++ },
		"arch":      func(in *Inputs) { in.Arch = "arm64" },
		"suite":     func(in *Inputs) { in.Suite = "trixie" },
		"packages":  func(in *Inputs) { in.Packages = append(slices.Clone(in.Packages), "zz") },
		"uids":      func(in *Inputs) { in.UIDBase++ },
		"kernel":    func(in *Inputs) { in.Kernel = "linux-image-amd64" },
		"keyring":   func(in *Inputs) { in.Sources = slices.Clone(in.Sources); in.Sources[0].KeyringSHA256 = "x" },
		"component": func(in *Inputs) { in.Sources = slices.Clone(in.Sources); in.Sources[0].Components = []string{"x"} },
	} {
		other := in
		change(&other)
		if digests[other.Digest()] {
			t.Errorf("another %s, the same digest", name)
		}
		digests[other.Digest()] = true
	}
	writeFiles(t, root, map[string]string{"etc/apt/sources.list.d/debian.sources": strings.Replace(debianSources, "me:secret", "you:other", 1)})
	if again, err := resolve(root, spec.Image{Packages: []string{"jq", "zsh"}}, "amd64"); err != nil || again.Digest() != in.Digest() {
		t.Errorf("credentials or a package named twice change the digest: %v", err)
	}
}

// TestRecipeVersion fails when the recipe changes: images made by the old one
// would go on being used. Raise recipeVersion, then take the new sum.
func TestRecipeVersion(t *testing.T) {
	const golden = "a0cc3ab98f9a63ab"
	in := Inputs{Arch: "a", Suite: "s", Packages: []string{"p"}}
	parts := append(mmdebstrapArgs(in, "root", "work"), dpkgOptions, guestAptOptions, string(recipe))
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	if got := hex.EncodeToString(sum[:8]); got != golden {
		t.Errorf("the recipe has changed (%s): raise recipeVersion (%d) and put the new sum here", got, recipeVersion)
	}
}
