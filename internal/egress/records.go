package egress

import (
	"net/netip"
	"sync"
	"time"
)

// How long an address that the resolver gave counts: what the answer says, in
// these bounds, and a grace for programs that connect late.
const (
	minTTL   = 5 * time.Second
	maxTTL   = time.Hour
	ttlGrace = 30 * time.Second
	// maxRecordedNames bounds the names of one VM, maxAddresses those of a name.
	maxRecordedNames = 12_000
	maxAddresses     = 64
)

// records remember which VM was told which addresses for a name.
type records struct {
	now func() time.Time
	mu  sync.Mutex
	vms map[string]*vmRecords
}

type vmRecords struct {
	names *lru[string, map[netip.Addr]time.Time] // until when
	// byAddress finds the names of an address, for protocols that tell none.
	byAddress map[netip.Addr]map[string]struct{}
}

func newRecords() *records {
	return &records{now: time.Now, vms: map[string]*vmRecords{}}
}

// add notes that a VM was told these addresses.
func (r *records) add(vm, name string, addresses []netip.Addr, ttl time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.vms[vm]
	if v == nil {
		v = newVMRecords()
		r.vms[vm] = v
	}
	v.add(name, addresses, r.now(), clampTTL(ttl)+ttlGrace)
}

func newVMRecords() *vmRecords {
	v := &vmRecords{byAddress: map[netip.Addr]map[string]struct{}{}}
	v.names = newLRU(maxRecordedNames, func(name string, known map[netip.Addr]time.Time) {
		for a := range known {
			v.forget(name, a)
		}
	})
	return v
}

func (v *vmRecords) add(name string, addresses []netip.Addr, now time.Time, lasts time.Duration) {
	known, ok := v.names.get(name)
	if !ok {
		known = map[netip.Addr]time.Time{}
		v.names.put(name, known)
	}
	for a, until := range known {
		if now.After(until) {
			delete(known, a)
			v.forget(name, a)
		}
	}
	for _, a := range addresses {
		until, ok := known[a]
		if !ok && len(known) >= maxAddresses {
			return
		}
		if end := now.Add(lasts); end.After(until) {
			known[a] = end
		}
		if v.byAddress[a] == nil {
			v.byAddress[a] = map[string]struct{}{}
		}
		v.byAddress[a][name] = struct{}{}
	}
}

func (v *vmRecords) forget(name string, a netip.Addr) {
	delete(v.byAddress[a], name)
	if len(v.byAddress[a]) == 0 {
		delete(v.byAddress, a)
	}
}

// has says that a VM was told that a name has this address, not long ago.
func (r *records) has(vm, name string, a netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.vms[vm]
	if v == nil {
		return false
	}
	known, ok := v.names.get(name)
	return ok && r.now().Before(known[a])
}

// find returns a name that a VM was told this address for, and that fits.
func (r *records) find(vm string, a netip.Addr, fits func(name string) bool) (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.vms[vm]
	if v == nil {
		return "", false
	}
	for name := range v.byAddress[a] {
		if known, ok := v.names.get(name); ok && r.now().Before(known[a]) && fits(name) {
			return name, true
		}
	}
	return "", false
}

// keep forgets VMs that are not there any more, or are not what they were.
func (r *records) keep(stays func(vm string) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for vm := range r.vms {
		if !stays(vm) {
			delete(r.vms, vm)
		}
	}
}

func clampTTL(ttl time.Duration) time.Duration { return min(max(ttl, minTTL), maxTTL) }
