package hypervisortest_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
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
	waitTogether()
	goleak.VerifyTestMain(m)
}

// waitTogether lets more cases run at once than there are CPUs: they mostly wait.
func waitTogether() {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == fmt.Sprint(runtime.GOMAXPROCS(0)) {
		_ = f.Value.Set("8")
	}
}

// TestConformance puts every driver through the suite and prints its table.
func TestConformance(t *testing.T) {
	subjects := []hypervisortest.Subject{
		realQEMU("QEMU", "amd64", kernelX86(hypervisortest.QEMUMicrovm())), realQEMU("QEMU arm64", "arm64", hypervisortest.KernelARM),
		fakeQEMU(installFakes(t, "")),
		fakeCloudHypervisor(installFakes(t, "v53.0"), "v53.0"), fakeCloudHypervisor(installFakes(t, "v52.0"), "v52.0"),
		realCloudHypervisor(),
	}
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

// require fails t for a subject that must be there. A cloud-hypervisor comes from
// whoever asks for it.
func require(t *testing.T, s hypervisortest.Subject) {
	if s.Missing != "" && s.Missing != notNamed && os.Getenv("BIELD_TEST_REQUIRE") == "1" {
		t.Error(s.Name, "is required, but", s.Missing)
	}
}
