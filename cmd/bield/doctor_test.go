package main

import (
	"bytes"
	"testing"

	"bield/internal/preflight"
)

func TestPrintCheck(t *testing.T) {
	var out bytes.Buffer
	a := newApp(&out, &out)
	results := []preflight.Result{
		{Name: "kernel", State: preflight.OK, Found: "Linux 6.1.0"},
		{Name: "qemu-system-x86_64", State: preflight.Fail, Found: "is not installed", Do: []string{"sudo bield setup"}},
		{Name: "other-firewalls", State: preflight.Fail, Found: "table one\ntable two", Do: []string{"first", "second"}},
		{Name: "systemd", State: preflight.Skipped, Found: "not here"},
		{Name: "kvm", State: preflight.Warn, Found: "slow"},
	}
	for _, r := range results {
		a.printCheck(r)
	}
	err := a.verdict(results, false)
	const want = `ok       kernel              Linux 6.1.0
fail     qemu-system-x86_64  is not installed
                             → sudo bield setup
fail     other-firewalls     table one
                             table two
                             → first
                             → second
skipped  systemd             not here
warn     kvm                 slow

1 ok, 1 warn, 2 fail, 1 skipped
`
	if out.String() != want {
		t.Errorf("printed\n%s", out.String())
	}
	if err == nil || err.Error() != "2 checks failed: qemu-system-x86_64, other-firewalls" {
		t.Errorf("error %v", err)
	}
	out.Reset()
	if err := a.verdict(results[:1], true); err != nil || out.Len() > 0 {
		t.Errorf("%v, %q", err, out.String())
	}
}
