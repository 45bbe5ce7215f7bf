package apt

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const debianKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

const bookworm = "ID=debian\nVERSION_CODENAME=bookworm\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"

// hostRoot makes a root with these files.
func hostRoot(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestHostSources(t *testing.T) {
	const standard = "Types: deb\nURIs: http://deb.example.org/debian\nSuites: bookworm bookworm-updates bookworm-backports\nComponents: main contrib\nSigned-By: " + debianKeyring + "\n"
	tests := []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"stanzas, without backports", map[string]string{"etc/apt/sources.list.d/debian.sources": standard}, []string{
			"deb [signed-by=" + debianKeyring + "] http://deb.example.org/debian bookworm main contrib",
			"deb [signed-by=" + debianKeyring + "] http://deb.example.org/debian bookworm-updates main contrib",
		}},
		{"one-line, no keyring, nothing downloaded", map[string]string{"etc/apt/sources.list": "deb http://deb.example.org/debian bookworm main\ndeb-src http://deb.example.org/debian bookworm main\n"}, []string{
			"deb http://deb.example.org/debian bookworm main",
		}},
		{"third parties", map[string]string{
			"etc/apt/sources.list.d/debian.sources": standard,
			"etc/apt/sources.list.d/docker.list":    "deb [arch=amd64 signed-by=/etc/apt/keyrings/docker.gpg] https://download.example.test/linux/debian bookworm stable\n",
			"etc/apt/sources.list.d/main.list":      "deb [signed-by=/etc/apt/keyrings/vendor.gpg] https://vendor.example.test/debian bookworm main\n",
			"etc/apt/sources.list.d/inline.sources": "Types: deb\nURIs: http://inline.example.test\nSuites: bookworm\nComponents: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n",
			"etc/apt/sources.list.d/print.list":     "deb [signed-by=0123456789ABCDEF] http://print.example.test bookworm main\n",
			"etc/apt/sources.list.d/both.list":      "deb [signed-by=" + debianKeyring + ",/etc/apt/keyrings/vendor.gpg] http://both.example.test bookworm main\n",
			"etc/apt/sources.list.d/x.list.off":     "deb http://off.example.test bookworm main\n",
			"etc/apt/sources.list.d/odd.sources":    "Types: deb\nURIs: http://odd.example.test/#x\nSuites: bookworm\nComponents: main\n",
			"etc/apt/sources.list.d/disk.list":      "deb file:/srv/debian bookworm main\ndeb cdrom:[Debian 12]/ bookworm main\n",
		}, []string{
			"deb [signed-by=" + debianKeyring + "] http://deb.example.org/debian bookworm main contrib",
			"deb [signed-by=" + debianKeyring + "] http://deb.example.org/debian bookworm-updates main contrib",
		}},
		{"no keyring, the lists tell", map[string]string{
			"etc/apt/sources.list": "deb http://deb.example.org/debian/ bookworm main\ndeb http://user:pw@vendor.example.test/a_b bookworm main\n",
			"var/lib/apt/lists/deb.example.org_debian_dists_bookworm_InRelease":          "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nOrigin: Debian\nCodename: bookworm\nMD5Sum:\n 0 0 main\n",
			"var/lib/apt/lists/vendor.example.test_a%5fb_dists_bookworm_Release":         "Origin: Vendor\nCodename: bookworm\n",
			"var/lib/apt/lists/partial/vendor.example.test_a%5fb_dists_bookworm_Release": "Origin: Debian\n",
		}, []string{"deb http://deb.example.org/debian/ bookworm main"}},
		{"a suite by its class", map[string]string{
			"etc/apt/sources.list": "deb http://deb.example.org/debian stable main\ndeb http://deb.example.org/debian testing main\ndeb http://sec.example.org/debian-security stable-security main\n",
			"var/lib/apt/lists/deb.example.org_debian_dists_stable_InRelease":                   "-----BEGIN PGP SIGNED MESSAGE-----\n\nOrigin: Debian\nCodename: bookworm\n",
			"var/lib/apt/lists/deb.example.org_debian_dists_testing_InRelease":                  "-----BEGIN PGP SIGNED MESSAGE-----\n\nOrigin: Debian\nCodename: trixie\n",
			"var/lib/apt/lists/sec.example.org_debian-security_dists_stable-security_InRelease": "-----BEGIN PGP SIGNED MESSAGE-----\n\nOrigin: Debian\nCodename: bookworm-security\n",
		}, []string{"deb http://deb.example.org/debian stable main", "deb http://sec.example.org/debian-security stable-security main"}},
		{"a mirror list of a cloud image", map[string]string{
			"etc/apt/sources.list.d/debian.sources": "Types: deb\nURIs: mirror+file:///etc/apt/mirrors/debian.list\nSuites: bookworm\nComponents: main\n",
			"etc/apt/mirrors/debian.list":           "# first\nhttps://deb.example.org/debian\tpriority:1\nhttp://other.example.org/debian\n",
		}, []string{"deb https://deb.example.org/debian bookworm main"}},
		{"twice", map[string]string{"etc/apt/sources.list": "deb http://a.test bookworm main\ndeb http://a.test bookworm main\n"},
			[]string{"deb http://a.test bookworm main"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.files["etc/os-release"] = bookworm
			root := hostRoot(t, tt.files)
			release, err := HostRelease(root)
			if err != nil {
				t.Fatal(err)
			}
			sources, err := HostSources(root, release)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Split(strings.TrimSpace(Lines(sources)), "\n"); !slices.Equal(got, tt.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

func TestHostSourcesErrors(t *testing.T) {
	root := hostRoot(t, map[string]string{
		"etc/os-release": bookworm, "etc/apt/sources.list": "deb http://a.test jammy main\n"})
	release, _ := HostRelease(root)
	if _, err := HostSources(root, release); !errors.Is(err, ErrNoSources) {
		t.Errorf("no source of the distribution: %v", err)
	}
	root = hostRoot(t, map[string]string{"etc/os-release": bookworm, "etc/apt/sources.list": "\ndeb x\n"})
	_, err := HostSources(root, release)
	checkError(t, err, "sources.list: line 2: a source needs a URI and a suite")
}

func TestReleaseOfOthers(t *testing.T) {
	root := hostRoot(t, map[string]string{"usr/lib/os-release": "ID=fedora\nID_LIKE='a b'\nVERSION_ID=42\nPRETTY_NAME=\"Fedora Linux 42\"\n"})
	r, err := HostRelease(root)
	if err != nil || r.ID != "fedora" || !slices.Equal(r.Like, []string{"a", "b"}) || r.Archive() {
		t.Errorf("got %+v, %v", r, err)
	}
	if _, err := HostRelease(t.TempDir()); err == nil {
		t.Error("no error for a host without os-release")
	}
}

func TestPublic(t *testing.T) {
	for in, want := range map[string]string{
		"http://a.test/debian":          "http://a.test/debian",
		"https://me:secret@a.test/d":    "https://a.test/d",
		"https://me@a.test:81/d?x=1":    "https://a.test:81/d?x=1",
		"https://me:p%zz@a.test/d":      "https://a.test/d",
		"https://me:p@ss@word@a.test/d": "https://a.test/d",
	} {
		if got := (Source{URI: in}).Public().URI; got != want {
			t.Errorf("%s becomes %s, want %s", in, got, want)
		}
	}
}

func TestDeb822RoundTrip(t *testing.T) {
	s := Source{URI: "http://a.test/d", Suite: "x", Components: []string{"main", "contrib"}, Keyring: debianKeyring}
	got, err := ParseDeb822([]byte(s.Deb822()))
	if err != nil || len(got) != 1 || !slices.Equal(got[0].SignedBy, []string{debianKeyring}) || !slices.Equal(got[0].Components, s.Components) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestCredentials(t *testing.T) {
	root := hostRoot(t, map[string]string{
		"etc/apt/auth.conf": "machine a.test login x password y", "etc/apt/auth.conf.d/b.conf": "machine b.test login u password v\n",
		"etc/apt/auth.conf.d/b.conf.bak": "no"})
	got, err := Credentials(root)
	if want := "machine a.test login x password y\nmachine b.test login u password v\n"; err != nil || string(got) != want {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := Credentials(t.TempDir()); err != nil || len(got) != 0 {
		t.Errorf("none: %q, %v", got, err)
	}
}
