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
	recommends = ", " + recommends + ", "
	needed := []string{"virtiofsd"}
	for _, p := range programs() {
		needed = append(needed, p.packages[familyDebian])
	}
	for _, name := range needed {
		if !strings.Contains(recommends, ", "+name+", ") {
			t.Errorf("the package does not recommend %s", name)
		}
	}
}
