package faults

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"testing"

	"bield/internal/spec"
)

// maxPlaces bounds a search for an order; one that there is was found within a
// few thousand.
const maxPlaces = 300_000

// explained holds the machine to be what some order of the requests makes of it,
// none before one that had ended when it began; but where both concern one VM
// alone, and not the same, they may come in any order. One that failed may have
// done it for some VMs only.
//
// Those that concern several VMs are put in order. Between two of them the VMs are
// independent of each other: of each it is known what can have become of it.
func explained(from, to model, requests []*request) error {
	s := &search{to: to, seen: map[string]bool{}}
	for _, r := range requests {
		if r.what != "apply" && r.what != "up" && len(r.vms) == 1 {
			i := number(r.vms[0])
			s.alone[i] = append(s.alone[i], r)
		} else {
			s.common = append(s.common, r)
		}
	}
	// The way of time is most often right.
	slices.SortFunc(s.common, func(a, b *request) int { return int(a.ended - b.ended) })
	start := place{declared: from.declared}
	for i := range start.lives {
		start.lives[i] = s.alive(start, i, lives{{runs: from.runs[i], wanted: from.wanted[i]}: true})
	}
	if s.from(start) {
		return nil
	}
	if len(s.seen) >= maxPlaces {
		return fmt.Errorf("no order of the requests found that leads there, of %d partial ones", len(s.seen))
	}
	return fmt.Errorf("no order of the requests leads there")
}

// life is what can have become of one VM, by which of the requests for it alone,
// a bit for each.
type life struct {
	runs   variant
	wanted bool
	done   uint32
}

type lives map[life]bool

// place is where a search stands; done has a bit for each common request.
type place struct {
	done     uint32
	declared [5]variant
	lives    [5]lives
}

type search struct {
	common []*request
	alone  [5][]*request
	to     model
	seen   map[string]bool
}

// key tells places apart.
func (p place) key() string {
	key := binary.LittleEndian.AppendUint32(nil, p.done)
	for i, all := range p.lives {
		key = binary.LittleEndian.AppendUint16(key, uint16(p.declared[i]))
		var codes []uint64
		for l := range all {
			code := uint64(l.done)<<32 | uint64(l.runs)<<1
			if l.wanted {
				code++
			}
			codes = append(codes, code)
		}
		slices.Sort(codes)
		for _, code := range codes {
			key = binary.LittleEndian.AppendUint64(key, code)
		}
		key = append(key, '|')
	}
	return string(key)
}

// from tries all that may come next.
func (s *search) from(p place) bool {
	if p.done == 1<<len(s.common)-1 {
		return s.isThere(p)
	}
	key := p.key()
	if s.seen[key] || len(s.seen) >= maxPlaces {
		return false
	}
	s.seen[key] = true
	for n, r := range s.common {
		if p.done&(1<<n) != 0 || !s.mayCome(r, p.done) {
			continue
		}
		for _, declares := range []bool{true, false} {
			if !declares && (r.err == nil || len(r.host.VMs) == 0) {
				continue
			}
			if next, possible := s.after(p, n, declares); possible && s.from(next) {
				return true
			}
		}
	}
	return false
}

// mayCome says that no common request is left that had ended when this one began.
func (s *search) mayCome(r *request, done uint32) bool {
	for n, other := range s.common {
		if done&(1<<n) == 0 && other.ended < r.began {
			return false
		}
	}
	return true
}

// after is the place after a common request, if that can come there.
func (s *search) after(p place, n int, declares bool) (next place, possible bool) {
	r := s.common[n]
	next = place{done: p.done | 1<<n, declared: p.declared}
	if len(r.host.VMs) > 0 && declares {
		next.declared = variants(r.host.VMs)
	}
	for i := range p.lives {
		became := lives{}
		for l := range p.lives[i] {
			if s.leavesOut(r, i, l) {
				continue
			}
			if r.err != nil {
				became[l] = true
			}
			if declares {
				became[l.then(r, i, next.declared[i])] = true
			}
		}
		if len(became) == 0 {
			return next, false
		}
		next.lives[i] = s.alive(next, i, became)
	}
	return next, true
}

// leavesOut says that a request for one VM has not come that had ended when
// another began.
func (s *search) leavesOut(r *request, i int, l life) bool {
	for n, other := range s.alone[i] {
		if l.done&(1<<n) == 0 && other.ended < r.began {
			return true
		}
	}
	return false
}

// alive adds all that requests for one VM alone can make of it before the next
// common one.
func (s *search) alive(p place, i int, all lives) lives {
	todo := slices.Collect(maps.Keys(all))
	for len(todo) > 0 {
		l := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for n, r := range s.alone[i] {
			if l.done&(1<<n) != 0 || s.leavesOut(r, i, l) || !s.mayCome(r, p.done) {
				continue
			}
			next := []life{l.then(r, i, p.declared[i])}
			if r.err != nil {
				next = append(next, l)
			}
			for _, became := range next {
				if became.done |= 1 << n; !all[became] {
					all[became] = true
					todo = append(todo, became)
				}
			}
		}
	}
	return all
}

// isThere says that all has come, and to what it should.
func (s *search) isThere(p place) bool {
	for i, all := range p.lives {
		if !all[life{s.to.runs[i], s.to.wanted[i], 1<<len(s.alone[i]) - 1}] {
			return false
		}
	}
	return p.declared == s.to.declared
}

// TestExplainedCanFail: what nobody asked for has no explanation.
func TestExplainedCanFail(t *testing.T) {
	small, big := spec.VM{Name: "a", MemoryMiB: 256}, spec.VM{Name: "a", MemoryMiB: 512}
	var down model
	down.declared[0], down.declared[1] = variantOf(small), variantOf(small)
	up := func(m model, vms ...int) model {
		for _, i := range vms {
			m.runs[i], m.wanted[i] = m.declared[i].running(), true
		}
		return m
	}
	declared := func(m model, vm spec.VM) model {
		m.declared = variants([]spec.VM{vm})
		return m
	}
	ask := func(what string, began, ended int64, vms ...string) *request {
		return &request{what: what, vms: vms, began: began, ended: ended}
	}
	of := func(r *request, vm spec.VM) *request {
		r.host.VMs = []spec.VM{vm}
		return r
	}
	start, stop := ask("start", 2, 3, "a"), ask("down", 0, 1, "a")
	both, none := ask("start", 0, 9, "a", "b"), ask("down", 0, 9, "a", "b")
	first, second := of(ask("up", 0, 9, "a"), small), of(ask("up", 0, 9, "a"), big)
	for n, c := range []struct {
		requests []*request
		to       model
		fails    bool
	}{
		{nil, up(down, 0), true},
		{[]*request{start}, up(down, 0), false},
		{[]*request{start}, down, true},
		{[]*request{stop, start}, down, true}, // the down had ended before
		{[]*request{stop, start}, up(down, 0), false},
		{[]*request{both, none}, up(down, 0, 1), false},
		{[]*request{both, none}, down, false},
		{[]*request{both, none}, up(down, 0), true}, // another order for each VM
		{[]*request{both, none, start}, up(down, 0), false},
		{[]*request{first, second}, declared(up(down, 0), big), false},
		{[]*request{first, second}, up(declared(down, big), 0), true}, // the second has declared it when the first starts it
	} {
		if err := explained(down, c.to, c.requests); (err != nil) != c.fails {
			t.Errorf("case %d: %v", n, err)
		}
	}
}
