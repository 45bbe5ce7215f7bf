package faults

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

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

// then is the model after a request that did all it should.
func (m model) then(r *request) model {
	switch i := number(r.vm); r.what {
	case "declare":
		m.declared = variants(r.host.VMs)
	case "start":
		if m.declared[i] != 0 {
			if m.wanted[i] = true; m.runs[i] == 0 {
				m.runs[i] = m.declared[i].running()
			}
		}
	case "down":
		m.runs[i], m.wanted[i] = 0, false
	default:
		m.declared = variants(r.host.VMs)
		for i, v := range m.declared {
			m.wanted[i] = v != 0 && (v.autostart() || m.wanted[i])
			if m.runs[i] = 0; m.wanted[i] {
				m.runs[i] = v.running()
			}
		}
	}
	return m
}

// explained holds the machine to be what some order of the requests makes of it,
// none before one that had ended when it began. One that failed may have done
// nothing.
func explained(from, to model, requests []*request) error {
	s := search{requests: requests, to: to, seen: map[place]bool{}}
	if !s.from(from, 0) {
		return errors.New("no order of the requests leads there")
	}
	return nil
}

// explainedEach is explained for each VM alone, where the order may be another
// for each.
func explainedEach(from, to model, requests []*request) error {
	for i, name := range vmNames() {
		s := search{requests: parts(requests, name), to: to.only(i), seen: map[place]bool{}}
		if !s.from(from.only(i), 0) {
			return fmt.Errorf("no order of the requests makes %s what it is", name)
		}
	}
	return nil
}

// only is the model as far as one VM goes.
func (m model) only(i int) model {
	var one model
	one.declared[i], one.runs[i], one.wanted[i] = m.declared[i], m.runs[i], m.wanted[i]
	return one
}

// parts are what concerns one VM, an up as its two parts.
func parts(requests []*request, vm string) []*request {
	var all []*request
	for _, r := range requests {
		part := *r
		for j := range r.host.VMs {
			if r.host.VMs[j].Name == vm {
				part.host.VMs = r.host.VMs[j : j+1]
			}
		}
		if _, there := r.host.VM(vm); !there {
			part.host.VMs = nil
		}
		switch {
		case r.what == "up":
			part.what = "declare"
			all = append(all, &part)
			if r.vm == vm {
				start := part
				start.what, start.after = "start", &part
				all = append(all, &start)
			}
		case r.what == "apply", r.vm == vm:
			all = append(all, &part)
		}
	}
	return all
}

type search struct {
	requests []*request
	to       model
	seen     map[place]bool
}

// place is where a search stands: the model, and a bit for each request done.
type place struct {
	model model
	done  uint64
}

// from tries all that may come next.
func (s search) from(m model, done uint64) bool {
	if done == 1<<len(s.requests)-1 {
		return m == s.to
	}
	here := place{m, done}
	if s.seen[here] {
		return false
	}
	s.seen[here] = true
	for i, r := range s.requests {
		bit := uint64(1) << i
		if done&bit != 0 || !s.mayCome(r, done) {
			continue
		}
		if s.from(m.then(r), done|bit) || r.err != nil && s.from(m, done|bit) {
			return true
		}
	}
	return false
}

// mayCome says that no request is left that had ended when this one began.
func (s search) mayCome(r *request, done uint64) bool {
	for i, other := range s.requests {
		if done&(1<<i) == 0 && (other.ended < r.began || other == r.after) {
			return false
		}
	}
	return true
}

// TestExplainedCanFail: what nobody asked for has no explanation.
func TestExplainedCanFail(t *testing.T) {
	var down, up model
	down.declared[0] = variantOf(spec.VM{MemoryMiB: 256})
	up = down
	up.runs[0], up.wanted[0] = down.declared[0].running(), true
	start := &request{what: "start", vm: "a", began: 2, ended: 3}
	stop := &request{what: "down", vm: "a", began: 0, ended: 1}
	for _, c := range []struct {
		requests []*request
		to       model
		fails    bool
	}{
		{nil, up, true},
		{[]*request{start}, up, false},
		{[]*request{start}, down, true},
		{[]*request{stop, start}, down, true}, // the down had ended before
		{[]*request{stop, start}, up, false},
	} {
		for _, holds := range []func(model, model, []*request) error{explained, explainedEach} {
			if err := holds(down, c.to, c.requests); (err != nil) != c.fails {
				t.Errorf("%d requests: %v", len(c.requests), err)
			}
		}
	}
}
