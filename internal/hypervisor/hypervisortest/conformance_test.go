package hypervisortest_test

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"bield/internal/hypervisor/hypervisortest"
	"bield/internal/process"
	"bield/test/fakes"
)

// The test binary is also the fakes.
func TestMain(m *testing.M) {
	process.MaybeLaunch()
	if fake, ok := fakes.Programs()[filepath.Base(os.Args[0])]; ok {
		os.Exit(fake())
	}
	goleak.VerifyTestMain(m)
}

// TestConformance puts every driver through the suite and prints its table.
func TestConformance(t *testing.T) {
	dir := installFakes(t)
	subjects := []hypervisortest.Subject{realQEMU(), fakeQEMU(dir)}
	reports := make([]hypervisortest.Report, len(subjects))
	t.Run("drivers", func(t *testing.T) {
		for i, s := range subjects {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				require(t, s)
				reports[i] = hypervisortest.Run(t, s)
			})
		}
	})
	t.Log("what each driver does, and why not:\n" + hypervisortest.Table(reports...))
}

// require fails t for a subject that must be there.
func require(t *testing.T, s hypervisortest.Subject) {
	if s.Missing != "" && os.Getenv("BIELD_TEST_REQUIRE") == "1" {
		t.Error(s.Name, "is required, but", s.Missing)
	}
}
