package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"bield/internal/api"
	"bield/internal/spec"
	"bield/test/host"
)

const (
	clients        = 20
	clientMachines = 4 // each with a seed of its own
	clientWaves    = 3
)

// TestClients has many clients ask for contradictory things at once. What comes
// of it is what comes of their requests in some order, one after the other. Where
// ups are among them, with files of their own, that holds for each VM: an up is
// then two, it declares, and it starts what is declared by then.
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
			kinds := []string{"start", "start", "down", "down", "apply"}
			holds := explained
			if i%2 == 0 {
				kinds, holds = append(kinds, "up"), explainedEach
			}
			must(t, h.StartDaemon(nil))
			must(t, apply(h))
			now, err := modelOf(h)
			must(t, err)
			for wave := range waves {
				requests := ask(h, rng, kinds)
				after, err := modelOf(h)
				if err == nil {
					err = soon(func() error { return stands(h) })
				}
				if err == nil {
					err = holds(now, after, requests)
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
	what string // "start", "down", "up", "apply"
	vm   string
	host spec.Host // of an up or apply
	err  error
	// Numbers of a common clock.
	began, ended int64
	after        *request // must come before, or nil
}

// ask has all clients ask at once.
func ask(h *host.Host, rng *rand.Rand, kinds []string) []*request {
	var requests []*request
	for range clients {
		r := &request{what: kinds[rng.IntN(len(kinds))], vm: vmNames()[rng.IntN(5)]}
		if r.what == "up" || r.what == "apply" {
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
	case "up":
		return h.Client.Up(ctx, api.UpRequest{Host: r.host, Origin: h.File(), Names: []string{r.vm}}, quiet)
	default:
		return h.Client.Apply(ctx, api.ApplyRequest{Host: r.host, Origin: h.File()}, quiet)
	}
}

func describe(requests []*request) string {
	var text strings.Builder
	for _, r := range requests {
		fmt.Fprintf(&text, "%4d–%4d ms %s %s %s: %v\n", r.began/1e6, r.ended/1e6, r.what, r.vm, brief(variants(r.host.VMs)), r.err)
	}
	return text.String()
}
