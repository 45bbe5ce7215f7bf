package egress

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	// maxDenials bounds the different denials that are kept of each VM.
	maxDenials = 1000
	// followPause is how often a follower is told at most.
	followPause = 200 * time.Millisecond
)

// Denial is what was refused to a VM, as often as it was.
type Denial struct {
	VM string `json:"vm"`
	// Kind is "dns", "tls", "http" or "tcp" where this process refused it, and
	// the protocol ("tcp", "udp", "icmp", "proto 47") where the kernel did.
	Kind string `json:"kind"`
	// Name is what was asked for, Address where it was; either may be empty.
	Name    string    `json:"name,omitempty"`
	Address string    `json:"address,omitempty"`
	Port    uint16    `json:"port,omitempty"`
	Reason  string    `json:"reason"`
	Count   uint64    `json:"count"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
}

type denialKey struct {
	kind, name, address, reason string
	port                        uint16
}

type counted struct {
	Denial
	seq uint64
}

// denials count what was refused.
type denials struct {
	now     func() time.Time
	mu      sync.Mutex
	seq     uint64
	vms     map[string]*lru[denialKey, *counted]
	changed chan struct{} // closed at the next denial
}

func newDenials() *denials {
	return &denials{now: time.Now, vms: map[string]*lru[denialKey, *counted]{}, changed: make(chan struct{})}
}

// add counts one denial; Count, First and Last are its own.
func (d *denials) add(n Denial) {
	d.mu.Lock()
	defer d.mu.Unlock()
	kept := d.vms[n.VM]
	if kept == nil {
		kept = newLRU[denialKey, *counted](maxDenials, nil)
		d.vms[n.VM] = kept
	}
	key := denialKey{n.Kind, n.Name, n.Address, n.Reason, n.Port}
	c, ok := kept.get(key)
	now := d.now()
	if !ok {
		n.First = now
		c = &counted{Denial: n}
		kept.put(key, c)
	}
	d.seq++
	c.Count++
	c.Last, c.seq = now, d.seq
	close(d.changed)
	d.changed = make(chan struct{})
}

// since lists what changed after a number, oldest first, and gives the number
// to ask with next and a channel that closes when there is more. vm "" is all.
func (d *denials) since(seq uint64, vm string) (list []Denial, next uint64, more <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var found []counted
	for name, kept := range d.vms {
		if vm != "" && name != vm {
			continue
		}
		kept.all(func(_ denialKey, c *counted) bool {
			if c.seq > seq { // the newest are in front
				found = append(found, *c)
			}
			return c.seq > seq
		})
	}
	slices.SortFunc(found, func(a, b counted) int { return int(int64(a.seq) - int64(b.seq)) })
	for _, c := range found {
		list = append(list, c.Denial)
	}
	return list, d.seq, d.changed
}

// follow shows what there is and what comes, until ctx ends or show fails. A
// denial that repeats is shown again with its new count.
func (d *denials) follow(ctx context.Context, vm string, show func([]Denial) error) error {
	pause := time.NewTicker(followPause)
	defer pause.Stop()
	seq := uint64(0)
	for first := true; ; first = false {
		list, next, more := d.since(seq, vm)
		seq = next
		if first || len(list) > 0 {
			if err := show(list); err != nil {
				return err
			}
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// keep forgets VMs that are not there any more.
func (d *denials) keep(stays func(vm string) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for vm := range d.vms {
		if !stays(vm) {
			delete(d.vms, vm)
		}
	}
}
