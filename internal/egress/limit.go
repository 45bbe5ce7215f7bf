package egress

import (
	"sync"
	"time"
)

// slots bound what goes on at the same time. A VM may have `each`, and no more
// than is left for all others together: so one alone can take no more than half,
// and a second always finds room.
type slots struct {
	total, each int
	mu          sync.Mutex
	used        int
	by          map[string]int
}

func newSlots(total, each int) *slots {
	return &slots{total: total, each: each, by: map[string]int{}}
}

func (s *slots) take(vm string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if own := s.by[vm]; own >= s.each || own >= s.total-s.used {
		return false
	}
	s.used++
	s.by[vm]++
	return true
}

func (s *slots) give(vm string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used--
	if s.by[vm]--; s.by[vm] == 0 {
		delete(s.by, vm)
	}
}

// buckets bound how often something is done, each VM for itself: `burst` at
// once, `rate` a second.
type buckets struct {
	rate, burst float64
	now         func() time.Time
	mu          sync.Mutex
	by          map[string]bucket
}

type bucket struct {
	left float64
	at   time.Time
}

func newBuckets(rate, burst float64) *buckets {
	return &buckets{rate: rate, burst: burst, now: time.Now, by: map[string]bucket{}}
}

func (b *buckets) take(vm string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	have, ok := b.by[vm]
	if !ok {
		have = bucket{b.burst, now}
	}
	have.left = min(b.burst, have.left+b.rate*now.Sub(have.at).Seconds())
	have.at = now
	enough := have.left >= 1
	if enough {
		have.left--
	}
	b.by[vm] = have
	return enough
}

func (b *buckets) keep(stays func(vm string) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for vm := range b.by {
		if !stays(vm) {
			delete(b.by, vm)
		}
	}
}
