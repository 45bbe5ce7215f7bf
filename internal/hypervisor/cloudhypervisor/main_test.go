package cloudhypervisor

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"bield/internal/guestconfig"
	"bield/internal/hypervisor"
	"bield/internal/hypervisor/hypervisortest"
	"bield/internal/process"
	"bield/test/fakes"
)

// The test binary is also the fake cloud-hypervisor, by its name.
func TestMain(m *testing.M) {
	process.MaybeLaunch()
	if fake, ok := fakes.Programs()[filepath.Base(os.Args[0])]; ok {
		os.Exit(fake())
	}
	flag.Parse()
	_ = flag.Set("test.parallel", "12") // they mostly wait
	goleak.VerifyTestMain(m)
}

const vmmUID = 54342

// newMachine makes a run folder with all that the fake opens.
func newMachine(t *testing.T, name string) hypervisor.Machine {
	t.Helper()
	if os.Geteuid() != 0 {
		hypervisortest.Skip(t, "needs root")
	}
	dir := filepath.Join(hypervisortest.PublicDir(t), name)
	m := hypervisor.Machine{
		Name: name, VCPU: 1, MemoryMiB: 64, Kernel: filepath.Join(dir, "kernel"), Initrd: filepath.Join(dir, "initrd"),
		Dir: dir, UID: vmmUID, GID: vmmUID, Log: filepath.Join(dir, "vmm.log"),
	}
	config, err := json.Marshal(guestconfig.Config{
		Hostname: name, Root: guestconfig.Root{Disk: "/dev/vda"}, Link: guestconfig.Link{VsockPort: guestconfig.LinkVsockPort},
	})
	err = errors.Join(err, os.Mkdir(dir, 0o711), os.WriteFile(m.Kernel, []byte("\x7fELF"), 0o644),
		os.WriteFile(m.Initrd, record(strings.TrimPrefix(guestconfig.Path, "/"), config), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// record is one file of a newc archive (cpio(5)).
func record(name string, content []byte) []byte {
	header := "070701"
	for i := range 13 {
		header += fmt.Sprintf("%08x", map[int]int{1: 0o100644, 6: len(content), 11: len(name) + 1}[i])
	}
	text := []byte(header + name + "\x00")
	text = append(text, make([]byte, -len(text)&3)...)
	text = append(text, content...)
	return append(text, make([]byte, -len(content)&3)...)
}

// fakeDriver runs this test binary, with a plan.
func fakeDriver(t *testing.T, plan fakes.Plan) *Driver {
	t.Helper()
	dir := hypervisortest.PublicDir(t)
	path := filepath.Join(dir, "cloud-hypervisor")
	text, err := json.Marshal(plan)
	err = errors.Join(err, hypervisortest.BringSelf(path), os.WriteFile(filepath.Join(dir, "plan.json"), text, 0o644),
		os.Mkdir(filepath.Join(dir, "net"), 0o711))
	if err != nil {
		t.Fatal(err)
	}
	return New(path)
}
