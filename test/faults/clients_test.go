package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
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
// of it is what comes of their requests in some order, one after the other, each
// with all of its VMs.
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
					err = soon(func() error { return stands(h) })
				}
				if err == nil {
					err = explained(now, after, requests)
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
	what string    // "start", "down", "up", "apply"
	vms  []string  // but of an apply
	host spec.Host // of an up or apply
	err  error
	// Numbers of a common clock.
	began, ended int64
}

// ask has all clients ask at once.
func ask(h *host.Host, rng *rand.Rand) []*request {
	kinds := []string{"start", "start", "start", "down", "down", "down", "up", "up", "apply"}
	var requests []*request
	for range clients {
		r := &request{what: kinds[rng.IntN(len(kinds))]}
		if r.what == "up" || r.what == "apply" {
			if r.err = h.Declare(fileOf(rng)); r.err == nil {
				r.host, r.err = h.Spec(context.Background())
			}
		}
		if r.what != "apply" {
			r.vms = someOf(rng, r.host.Names())
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

// someOf names one VM, several or all, of a file if there is one: no name that it
// does not have.
func someOf(rng *rand.Rand, declared []string) []string {
	names := vmNames()
	if len(declared) > 0 {
		names = slices.Clone(declared)
	}
	rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	switch few := min(2, len(names)); rng.IntN(4) {
	case 0:
		return names[:few]
	case 1:
		return names
	default:
		return names[:1]
	}
}

func (r *request) send(h *host.Host) error {
	ctx := context.Background()
	switch r.what {
	case "start":
		return h.Client.Start(ctx, api.StartRequest{Names: r.vms}, quiet)
	case "down":
		return h.Client.Down(ctx, api.DownRequest{Names: r.vms}, quiet)
	case "up":
		return h.Client.Up(ctx, api.UpRequest{Host: r.host, Origin: h.File(), Names: r.vms}, quiet)
	default:
		return h.Client.Apply(ctx, api.ApplyRequest{Host: r.host, Origin: h.File()}, quiet)
	}
}

func describe(requests []*request) string {
	var text strings.Builder
	for _, r := range requests {
		fmt.Fprintf(&text, "%4d–%4d ms %s %s %s: %v\n", r.began/1e6, r.ended/1e6, r.what, strings.Join(r.vms, ","), brief(variants(r.host.VMs)), r.err)
	}
	return text.String()
}
