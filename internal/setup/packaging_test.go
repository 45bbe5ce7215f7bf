package setup

import (
	"os"
	"strings"
	"testing"
)

// TestDebianPackageRecommends holds the Debian package to what setup installs.
func TestDebianPackageRecommends(t *testing.T) {
	control, err := os.ReadFile("../../packaging/deb/control.in")
	if err != nil {
		t.Fatal(err)
	}
	_, recommends, _ := strings.Cut(string(control), "\nRecommends: ")
	recommends, _, _ = strings.Cut(recommends, "\n")
	build, err := os.ReadFile("../../packaging/deb/build.sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, arch := range []string{"amd64", "arm64"} {
		_, rest, _ := strings.Cut(string(build), "\n  "+arch+") qemu=")
		qemu, _, _ := strings.Cut(rest, " ")
		names := ", " + strings.Replace(recommends, "@QEMU@", qemu, 1) + ", "
		needed := []string{"virtiofsd"}
		for _, p := range programs(arch) {
			needed = append(needed, p.packages[familyDebian])
		}
		for _, name := range needed {
			if !strings.Contains(names, ", "+name+", ") {
				t.Errorf("on %s the package does not recommend %s", arch, name)
			}
		}
	}
}
