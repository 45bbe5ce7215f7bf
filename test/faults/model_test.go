package faults

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"bield/internal/reconcile"
	"bield/internal/spec"
	"bield/internal/state"
	"bield/test/host"
)

// model is a host as one request after the other makes it. VMs are numbered as
// vmNames has them; all that they differ in is their variant.
type model struct {
	declared [5]variant
	runs     [5]variant // as it was started
	wanted   [5]bool    // was asked to run
}

// variant tells the specs of a VM apart, by memory and autostart; 0 is none.
type variant int

func variantOf(vm spec.VM) variant {
	v := variant(vm.MemoryMiB << 1)
	if vm.Autostart {
		v++
	}
	return v
}

func (v variant) autostart() bool { return v&1 == 1 }

// running is what of it a VM keeps until it is started again: the memory.
func (v variant) running() variant { return v &^ 1 }

func number(name string) int { return slices.Index(vmNames(), name) }

func variants(vms []spec.VM) [5]variant {
	var all [5]variant
	for _, vm := range vms {
		all[number(vm.Name)] = variantOf(vm)
	}
	return all
}

// brief is "a=512! c=256": memory, and whether it starts by itself.
func brief(all [5]variant) string {
	var texts []string
	for i, v := range all {
		if v != 0 {
			texts = append(texts, fmt.Sprintf("%s=%d%s", vmNames()[i], v>>1, map[bool]string{true: "!"}[v.autostart()]))
		}
	}
	return strings.Join(texts, " ")
}

func (m model) String() string {
	return fmt.Sprintf("declared %s, runs %s, wanted %v", brief(m.declared), brief(m.runs), m.wanted)
}

// applied reads the applied spec.
func applied(h *host.Host) (spec.Host, error) {
	file, err := h.Spec(context.Background())
	if err != nil {
		return file, err
	}
	var a reconcile.Applied
	err = state.Read(state.Folder{Dir: file.StateDir}.Applied(), &a)
	return a.Host, err
}

// modelOf reads what the daemon has noted.
func modelOf(h *host.Host) (model, error) {
	var m model
	declared, err := applied(h)
	if err != nil {
		return m, err
	}
	m.declared = variants(declared.VMs)
	var fates map[string]reconcile.Fate
	_ = state.Read(h.Run.Fates(), &fates) // nothing was asked for where it is not there
	for i, name := range vmNames() {
		var r reconcile.Record
		if state.Read(h.Run.Record(name), &r) == nil {
			m.runs[i] = variantOf(r.VM).running()
		}
		m.wanted[i] = fates[name].Run
	}
	return m, nil
}

// stands holds the machine to run what records say, and nothing else.
func stands(h *host.Host) error {
	ran, err := applied(h)
	if err != nil {
		return err
	}
	ran.VMs = nil
	var names []string
	for _, name := range vmNames() {
		var r reconcile.Record
		if state.Read(h.Run.Record(name), &r) == nil {
			ran.VMs, names = append(ran.VMs, r.VM), append(names, name)
		}
	}
	return settled(h, ran, names)
}

// then is one VM after a request that did with it all it should.
func (l life) then(r *request, i int, declared variant) life {
	switch {
	case r.what == "apply":
		l.wanted = declared != 0 && (declared.autostart() || l.wanted)
		if l.runs = 0; l.wanted {
			l.runs = declared.running()
		}
	case !slices.Contains(r.vms, vmNames()[i]):
	case r.what == "down":
		l.runs, l.wanted = 0, false
	case declared != 0:
		if l.wanted = true; l.runs == 0 {
			l.runs = declared.running()
		}
	}
	return l
}
