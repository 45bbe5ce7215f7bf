package packaging

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func buildDeb(t *testing.T) string {
	t.Helper()
	need(t, "make", "dpkg-deb", "dpkg")
	dependOnTree(t)
	dist := t.TempDir()
	cmd := tree("packaging/deb/build.sh")
	cmd.Env = append(cmd.Env, "BIN="+built, "DIST="+dist, "MAKE=make", "VERSION=v1.2.3-4-gabcdef", "DEB_COMPRESSION=none", "SOURCE_DATE_EPOCH=1700000000")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the package: %v: %s", err, out)
	}
	found, err := filepath.Glob(filepath.Join(dist, "bield_1.2.3+4.gabcdef_*.deb"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	return found[0]
}

func TestDeb(t *testing.T) {
	deb, again := buildDeb(t), buildDeb(t)
	if err := exec.Command("cmp", deb, again).Run(); err != nil {
		t.Errorf("two packages of one tree differ: %v", err)
	}
	for field, want := range map[string]string{
		"Package": "bield", "Version": "1.2.3+4.gabcdef", "Depends": "passwd", "Architecture": strings.TrimSpace(run(t, "dpkg", "--print-architecture")),
	} {
		if got := strings.TrimSpace(run(t, "dpkg-deb", "--field", deb, field)); got != want {
			t.Errorf("%s: %q, want %q", field, got, want)
		}
	}
	root := t.TempDir()
	run(t, "dpkg-deb", "--raw-extract", deb, root)
	if got := run(t, "cat", filepath.Join(root, "DEBIAN/conffiles")); got != "/etc/default/bieldd\n" {
		t.Errorf("conffiles: %q", got)
	}
	sums := exec.Command("md5sum", "--check", "--quiet", "--strict", "DEBIAN/md5sums")
	sums.Dir = root
	if out, err := sums.CombinedOutput(); err != nil {
		t.Errorf("md5sums: %v: %s", err, out)
	}
	for _, script := range []string{"postinst", "prerm", "postrm"} {
		run(t, "sh", "-n", filepath.Join(root, "DEBIAN", script))
	}
	if list := run(t, "dpkg-deb", "--contents", deb); strings.Contains(list, "/LICENSE") || strings.Contains(list, "site-functions") ||
		!strings.Contains(list, "man8/bieldd.8.gz") || strings.Count(list, " root/root ") != strings.Count(list, "\n") {
		t.Errorf("contents:\n%s", list)
	}
}

// TestDebVersions are in the order of the commits they are of.
func TestDebVersions(t *testing.T) {
	need(t, "dpkg", "git")
	dependOnTree(t)
	last := ""
	for _, c := range []struct{ git, want string }{
		{"v1.2.0-rc1", "1.2.0~rc1"},
		{"v1.2.0-rc1-3-gabc1234-dirty", "1.2.0~rc1+3.gabc1234+dirty"},
		{"v1.2.0", "1.2.0"},
		{"v1.2.0-9-gabc1234", "1.2.0+9.gabc1234"},
		{"v1.2.0-10-gabc1234", "1.2.0+10.gabc1234"},
		{"v1.10.0", "1.10.0"},
	} {
		got := strings.TrimSpace(run(t, "packaging/deb/version.sh", c.git))
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.git, got, c.want)
		}
		run(t, "dpkg", "--validate-version", got)
		if last != "" {
			run(t, "dpkg", "--compare-versions", last, "lt", got)
		}
		last = got
	}
	for _, untagged := range []string{"abc1234", "abc1234-dirty", "dev"} {
		got := strings.TrimSpace(run(t, "packaging/deb/version.sh", untagged))
		run(t, "dpkg", "--validate-version", got)
		run(t, "dpkg", "--compare-versions", got, "lt", "0.0.1")
	}
}
