package verify

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"bield/internal/probe"
)

// Result is what a guest's probe says came of an order.
type Result = probe.Result

// Row is one attempt: what it was expected to come to, and what it did.
type Row struct {
	Category  string
	Attempt   string
	Expected  string
	Got       string
	Hole      bool
	Unchecked bool // it was not tried, or could not be seen
}

// Plan is a list of attempts.
type Plan struct {
	Orders []probe.Order
	// Files are those that the host is to look for before it removes all whose
	// names begin with Prefix.
	Files  []File
	Prefix string
	// Control is the order whose packet the host must see on the bridge: the last
	// of all that are sent.
	Control  int
	attempts []attempt
}

type attempt struct {
	category, name, expected string
	// packets says that only what the host sees can tell.
	packets bool
	judge   func(e Evidence) verdict
}

// verdict is what came of an attempt.
type verdict struct {
	got             string
	hole, unchecked bool
}

// builder makes a plan.
type builder struct {
	Facts
	plan Plan
	next int
}

// Prefix begins the names of all that a verification makes in shares.
func Prefix(cookie string) string { return "." + probe.Name + "-" + cookie }

// New makes the attempts for one VM.
func New(f Facts) Plan {
	b := &builder{Facts: f, plan: Plan{Prefix: Prefix(f.Cookie)}}
	b.host()
	b.siblings()
	b.ranges()
	b.dns()
	b.spoofs()
	b.shares()
	b.machine()
	b.leftovers()
	b.control()
	return b.plan
}

// order adds one to the list and returns its number.
func (b *builder) order(o probe.Order) int {
	b.next++
	o.ID = b.next
	b.plan.Orders = append(b.plan.Orders, o)
	return o.ID
}

// marked is order for one whose data ends with its mark.
func (b *builder) marked(o probe.Order, data func(mark []byte) []byte) int {
	b.next++
	o.ID, o.Data = b.next, data(b.payload(b.next))
	b.plan.Orders = append(b.plan.Orders, o)
	return o.ID
}

// padding keeps a packet longer than any network pads it to.
const padding = 48

func (b *builder) payload(id int) []byte {
	return append(make([]byte, padding), b.Mark(uint32(id))...)
}

func (b *builder) add(a attempt) { b.plan.attempts = append(b.plan.attempts, a) }

// Judge makes the table. What was sent and could not have been seen is unchecked.
func (p Plan) Judge(e Evidence) []Row {
	rows := make([]Row, len(p.attempts))
	sees := len(e.Seen[uint32(p.Control)]) > 0
	for i, a := range p.attempts {
		v := a.judge(e)
		if a.packets && !sees && !v.hole {
			v = verdict{got: "the host did not see what it should have", unchecked: true}
		}
		rows[i] = Row{Category: a.category, Attempt: a.name, Expected: a.expected, Got: v.got, Hole: v.hole, Unchecked: v.unchecked}
	}
	return rows
}

// Holes counts those of a table.
func Holes(rows []Row) (n int) {
	for _, r := range rows {
		if r.Hole {
			n++
		}
	}
	return n
}

// Missing says whether orders have no result: the probe did not come to its end.
func (p Plan) Missing(results map[int]Result) int {
	n := 0
	for _, o := range p.Orders {
		if _, there := results[o.ID]; !there {
			n++
		}
	}
	return n
}

// Words for what is expected.
const (
	closed = "closed"
	open   = "open"
)

func openIf(b bool) string {
	if b {
		return open
	}
	return closed
}

// says puts an outcome of the probe in words.
func says(r Result) string {
	switch r.Outcome {
	case "":
		return "not tried"
	case "ECONNREFUSED", "ECONNRESET":
		return "refused"
	case "EHOSTUNREACH", "ENETUNREACH", "EPERM", "EACCES":
		return "rejected"
	case probe.Silent:
		return "no answer"
	default:
		return r.Outcome
	}
}

// notSent is the verdict on packets that the guest could not send.
func notSent(e Evidence, ids []int) (verdict, bool) {
	for _, id := range ids {
		if r := e.Results[id]; r.Outcome == probe.OK {
			return verdict{}, false
		}
	}
	if len(ids) == 0 {
		return verdict{got: "not tried", unchecked: true}, true
	}
	return verdict{got: "could not be sent: " + says(e.Results[ids[0]]), unchecked: true}, true
}

// where joins what is known of several orders, each once.
func where(known map[uint32][]string, ids []int, but ...string) string {
	var all []string
	for _, id := range ids {
		for _, name := range known[uint32(id)] {
			if !slices.Contains(but, name) && !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// joined is got, or instead.
func joined(list []string, instead string) string { return cmp.Or(strings.Join(list, ", "), instead) }

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
