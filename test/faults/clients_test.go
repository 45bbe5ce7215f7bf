package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bield/internal/api"
	"bield/internal/reconcile"
	"bield/internal/spec"
	"bield/internal/state"
	"bield/test/host"
)

const (
	clients        = 20
	clientMachines = 4 // each with a seed of its own
	clientWaves    = 3
)

// TestClients has many clients ask for contradictory things at once. What comes
// of it is what comes of their requests in some order, one after the other.
func TestClients(t *testing.T) {
	host.Require(t)
	t.Parallel()
	waves := clientWaves
	if testing.Short() {
		waves = 1
	}
	t.Logf("-seed %d", *seed)
	for i := range uint64(clientMachines) {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(*seed, 1000+i))
			h := machineFor(t, fileOf(rng), 10*time.Minute)
			defer h.End(t)
			must(t, h.StartDaemon(nil))
			must(t, apply(h))
			now, err := modelOf(h)
			must(t, err)
			for wave := range waves {
				requests := ask(h, rng)
				after, err := modelOf(h)
				if err == nil {
					err = soon(func() error { return after.stands(h) })
				}
				if err == nil && !reachable(now, after, requests) {
					err = errors.New("no order of the requests leads there")
				}
				if err != nil {
					t.Fatalf("-seed %d, machine %d, wave %d: %v\nbefore: %s\nafter:  %s\n%s", *seed, i, wave, err, now, after, describe(requests))
				}
				now = after
			}
			must(t, downOf()(h))
			clean(t, h)
		})
	}
}

// vmNames are the VMs that files declare, or not.
func vmNames() []string { return []string{"a", "b", "c", "d", "e"} }

// fileOf is a file of some of the VMs.
func fileOf(rng *rand.Rand) string {
	text := "stateDir: ~/state\nuser: {name: dev, uid: 4711, gid: 4712}\nstopTimeout: 1s\nvms:\n"
	some := false
	for i, name := range vmNames() {
		if rng.IntN(5) == 0 && (some || i < len(vmNames())-1) {
			continue
		}
		some = true
		text += fmt.Sprintf("  %s: {ip: 192.168.83.%d, workspace: ~/src, mem: %d, autostart: %v}\n", name, 10+i, 256<<rng.IntN(2), rng.IntN(2) == 0)
	}
	return text
}

// request is what one client asks for, and what came of it.
type request struct {
	what string // "start", "down", "apply"
	vm   string
	host spec.Host // of an apply
	err  error
	// Numbers of a common clock.
	began, ended int64
}

// ask has all clients ask at once.
func ask(h *host.Host, rng *rand.Rand) []*request {
	var requests []*request
	for range clients {
		r := &request{what: []string{"start", "start", "down", "down", "apply"}[rng.IntN(5)], vm: vmNames()[rng.IntN(5)]}
		if r.what == "apply" {
			r.vm = ""
			if r.err = h.Declare(fileOf(rng)); r.err == nil {
				r.host, r.err = h.Spec(context.Background())
			}
		}
		requests = append(requests, r)
	}
	var all sync.WaitGroup
	began := time.Now()
	for _, r := range requests {
		pause := time.Duration(rng.IntN(300)) * time.Millisecond
		all.Go(func() {
			time.Sleep(pause)
			r.began = int64(time.Since(began))
			r.err = r.send(h)
			r.ended = int64(time.Since(began))
		})
	}
	all.Wait()
	return requests
}

func (r *request) send(h *host.Host) error {
	ctx := context.Background()
	switch r.what {
	case "start":
		return h.Client.Start(ctx, api.StartRequest{Names: []string{r.vm}}, quiet)
	case "down":
		return h.Client.Down(ctx, api.DownRequest{Names: []string{r.vm}}, quiet)
	default:
		return h.Client.Apply(ctx, api.ApplyRequest{Host: r.host, Origin: h.File()}, quiet)
	}
}

func describe(requests []*request) string {
	var text strings.Builder
	for _, r := range requests {
		fmt.Fprintf(&text, "%4d–%4d ms %s %s%s: %v\n", r.began/1e6, r.ended/1e6, r.what, r.vm, brief(r.host.VMs), r.err)
	}
	return text.String()
}

func brief(vms []spec.VM) string {
	var all []string
	for _, vm := range vms {
		text := fmt.Sprintf("%s=%d", vm.Name, vm.MemoryMiB)
		if vm.Autostart {
			text += "!"
		}
		all = append(all, text)
	}
	return strings.Join(all, " ")
}

// model is a host as one request after the other makes it.
type model struct {
	declared spec.Host
	// runs holds VMs as they were started; wanted, those that were asked to run.
	runs   map[string]spec.VM
	wanted map[string]bool
}

func (m model) String() string {
	var runs []spec.VM
	for _, name := range vmNames() {
		if vm, ok := m.runs[name]; ok {
			runs = append(runs, vm)
		}
	}
	return fmt.Sprintf("declared %s, runs %s", brief(m.declared.VMs), brief(runs))
}

// key is equal for models that are.
func (m model) key() string { return text(m.declared.VMs) + text(m.runs) + text(m.wanted) }

// modelOf reads what the daemon has noted.
func modelOf(h *host.Host) (model, error) {
	m := model{runs: map[string]spec.VM{}, wanted: map[string]bool{}}
	declared, err := h.Spec(context.Background())
	if err != nil {
		return m, err
	}
	var applied reconcile.Applied
	if err := state.Read(state.Folder{Dir: declared.StateDir}.Applied(), &applied); err != nil {
		return m, err
	}
	m.declared = applied.Host
	var fates map[string]reconcile.Fate
	_ = state.Read(h.Run.Fates(), &fates) // nothing was asked for where it is not there
	for _, name := range vmNames() {
		var r reconcile.Record
		if state.Read(h.Run.Record(name), &r) == nil {
			m.runs[name] = r.VM
		}
		if fates[name].Run {
			m.wanted[name] = true
		}
	}
	return m, nil
}

// stands holds the machine to be as the model says.
func (m model) stands(h *host.Host) error {
	ran := m.declared
	ran.VMs = nil
	var names []string
	for _, name := range vmNames() {
		if vm, ok := m.runs[name]; ok {
			ran.VMs, names = append(ran.VMs, vm), append(names, name)
		}
	}
	return settled(h, ran, names)
}

// then is the model after a request that did all it should.
func (m model) then(r *request) model {
	next := model{declared: m.declared, runs: map[string]spec.VM{}, wanted: map[string]bool{}}
	for name, vm := range m.runs {
		next.runs[name] = vm
	}
	for name := range m.wanted {
		next.wanted[name] = true
	}
	switch r.what {
	case "start":
		next.start(r.vm)
	case "down":
		delete(next.runs, r.vm)
		delete(next.wanted, r.vm)
	default:
		next.apply(r.host)
	}
	return next
}

// start starts a VM that is declared and does not run.
func (m model) start(name string) {
	vm, declared := m.declared.VM(name)
	if !declared {
		return
	}
	if _, runs := m.runs[name]; !runs {
		m.runs[name] = vm
	}
	m.wanted[name] = true
}

func (m *model) apply(h spec.Host) {
	m.declared = h
	for _, name := range vmNames() {
		vm, declared := h.VM(name)
		if !declared || !vm.Autostart && !m.wanted[name] {
			delete(m.runs, name)
		} else {
			m.runs[name], m.wanted[name] = vm, true
		}
		if !declared {
			delete(m.wanted, name)
		}
	}
}

// reachable says whether the requests, in some order that has none before one
// that had ended when it began, lead from one model to the other. One that failed
// may have done nothing.
func reachable(from, to model, requests []*request) bool {
	s := search{requests: requests, to: to.key(), seen: map[string]bool{}}
	return s.from(from, 0)
}

type search struct {
	requests []*request
	to       string
	seen     map[string]bool
}

// from tries all that may come next; done is a bit for each request.
func (s search) from(m model, done uint64) bool {
	if done == 1<<len(s.requests)-1 {
		return m.key() == s.to
	}
	key := fmt.Sprintf("%x %s", done, m.key())
	if s.seen[key] {
		return false
	}
	s.seen[key] = true
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
	return !slices.ContainsFunc(s.requests, func(other *request) bool {
		return done&(1<<slices.Index(s.requests, other)) == 0 && other.ended < r.began
	})
}
