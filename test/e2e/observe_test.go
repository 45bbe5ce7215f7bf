package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"bield/internal/spec"
)

// observed looks at a VM, of an adopted run, through inspect, metrics and
// events: what they count is that of real programs.
func observed(t *testing.T, h *host) {
	var i spec.Inspection
	if err := json.Unmarshal([]byte(h.bield(t, "inspect", "one")), &i); err != nil {
		t.Fatal(err)
	}
	var served []string
	for _, p := range i.Processes {
		if p.Program == "vmm" && p.RSS < 64<<20 || p.Program == "virtiofsd" && p.RSS < 1<<20 || p.PSS == 0 || p.PSS > p.RSS {
			t.Errorf("%s %s holds %d bytes, in parts %d", p.Program, p.Share, p.RSS, p.PSS)
		}
		served = append(served, strings.TrimSpace(p.Program+" "+p.Share))
	}
	want(t, "processes", strings.Join(served, ", "), "vmm, virtiofsd root, virtiofsd ssh-host-keys, virtiofsd workspace")
	metrics := h.bield(t, "metrics")
	held := map[string]float64{}
	for line := range strings.Lines(metrics) {
		var part string
		var bytes float64
		if n, _ := fmt.Sscanf(line, `bield_vm_memory_bytes{part=%q,vm="one"} %g`, &part, &bytes); n == 2 {
			held[part] = bytes
		}
	}
	// Three virtiofsds are some 8 MB each; the guest's memory, which they map, is
	// counted as the VMM's.
	if vmm, shares := held["vmm"], held["virtiofsd"]; vmm < 64<<20 || shares < 1<<20 || shares > 100<<20 {
		t.Errorf("a VM's memory: %v", held)
	}
	contains(t, "metrics", metrics, `bield_vms{state="running"} 1`)
	contains(t, "events", h.bield(t, "events", "one"), "done       ready (", "running    after ", "adopted")
}
