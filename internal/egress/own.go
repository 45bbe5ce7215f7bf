package egress

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// ownRefresh is how old the list of the host's addresses may be.
const ownRefresh = 2 * time.Second

// ownAddresses know the host's addresses. Where they can't be read every
// address counts as one.
type ownAddresses struct {
	read  func() ([]net.Addr, error)
	mu    sync.Mutex
	at    time.Time
	known map[netip.Addr]struct{}
}

func newOwnAddresses() *ownAddresses { return &ownAddresses{read: net.InterfaceAddrs} }

func (o *ownAddresses) has(a netip.Addr) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known == nil || time.Since(o.at) > ownRefresh {
		o.refresh()
	}
	_, own := o.known[a.Unmap()]
	return own || o.known == nil
}

func (o *ownAddresses) refresh() {
	list, err := o.read()
	if err != nil {
		o.known = nil
		return
	}
	o.known, o.at = make(map[netip.Addr]struct{}, len(list)), time.Now()
	for _, one := range list {
		if p, ok := one.(*net.IPNet); ok {
			if a, ok := netip.AddrFromSlice(p.IP); ok {
				o.known[a.Unmap()] = struct{}{}
			}
		}
	}
}
