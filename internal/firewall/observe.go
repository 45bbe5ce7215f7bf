package firewall

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// State is what the kernel holds of our tables.
type State struct {
	// Present says that all of the owner's tables are there.
	Present bool
	// Partial says that some are, and others not.
	Partial bool
	// Foreign names tables of our name that are not the owner's, "inet bield".
	Foreign []string

	tables []table
}

// Matches tells whether the kernel holds just what Set would make of the
// configuration; false if the configuration is not valid. Counters do not count.
func (s State) Matches(c Config) bool {
	want, err := build(c)
	if err != nil || !s.Present || len(want) != len(s.tables) {
		return false
	}
	for i := range want {
		if want[i].text() != s.tables[i].text() {
			return false
		}
	}
	return true
}

// Observe reads the owner's tables from the kernel.
func Observe(ctx context.Context, owner string) (State, error) {
	conn, err := connect(ctx)
	if err != nil {
		return State{}, err
	}
	present, err := list(conn)
	if err != nil {
		return State{}, err
	}
	var state State
	for _, f := range families() {
		table, there := present[f]
		switch {
		case !there:
		case !table.ownedBy(owner):
			state.Foreign = append(state.Foreign, family(f)+" "+tableName)
		default:
			t, err := read(conn, f, table)
			if err != nil {
				return State{}, fmt.Errorf("read nftables table %s %s: %w", family(f), tableName, explain(err))
			}
			state.tables = append(state.tables, t)
		}
	}
	state.Present = len(state.tables) == len(families())
	state.Partial = !state.Present && len(state.tables) > 0
	return state, nil
}

func read(conn *nftables.Conn, f nftables.TableFamily, from found) (table, error) {
	t := table{family: f, altered: from.flags != 0}
	of := &nftables.Table{Name: tableName, Family: f}
	sets, err := conn.GetSets(of)
	if err != nil {
		return table{}, err
	}
	for _, s := range sets {
		elements, err := conn.GetSetElements(s)
		if err != nil {
			return table{}, fmt.Errorf("set %s: %w", s.Name, err)
		}
		t.sets = append(t.sets, readSet(s, elements))
	}
	for _, c := range from.chains {
		rules, err := conn.GetRules(of, c)
		if err != nil {
			return table{}, fmt.Errorf("chain %s: %w", c.Name, err)
		}
		t.chains = append(t.chains, readChain(c, rules))
	}
	return t, nil
}

func readSet(s *nftables.Set, elements []nftables.SetElement) set {
	found := set{name: s.Name, types: nftables.ConcatSetTypeElements(s.KeyType), ranges: s.Interval}
	for _, e := range elements {
		found.keys = append(found.keys, e.Key)
		if found.ranges {
			found.ends = append(found.ends, e.KeyEnd)
		}
	}
	return found
}

func readChain(c *nftables.Chain, rules []*nftables.Rule) chain {
	found := chain{name: c.Name}
	if c.Hooknum != nil && c.Priority != nil {
		found.base = &base{kind: c.Type, hook: *c.Hooknum, priority: *c.Priority}
		found.altered = c.Policy == nil || *c.Policy != nftables.ChainPolicyAccept
	}
	for _, r := range rules {
		found.rules = append(found.rules, rule{exprs: r.Exprs})
	}
	return found
}

// text is equal for tables that do the same, whatever they have counted and in
// whatever order the kernel lists what has no order.
func (t table) text() string {
	var lines []string
	for _, s := range t.sets {
		lines = append(lines, fmt.Sprintf("set %s %v %t %x", s.name, s.types, s.ranges, s.sorted()))
	}
	for _, c := range t.chains {
		lines = append(lines, c.text())
	}
	slices.Sort(lines)
	return fmt.Sprintf("%d %t\n%s", t.family, t.altered, strings.Join(lines, "\n"))
}

// sorted is the set's keys, each with the end of its range, in order.
func (s set) sorted() [][]byte {
	keys := make([][]byte, len(s.keys))
	for i, key := range s.keys {
		keys[i] = key
		if s.ranges {
			keys[i] = slices.Concat(key, s.ends[i])
		}
	}
	slices.SortFunc(keys, bytes.Compare)
	return keys
}

func (c chain) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "chain %s %t", c.name, c.altered)
	if c.base != nil {
		fmt.Fprintf(&b, " %+v", *c.base)
	}
	for _, r := range c.rules {
		b.WriteString("\n ")
		for _, e := range r.exprs {
			if _, counts := e.(*expr.Counter); counts {
				e = &expr.Counter{}
			}
			fmt.Fprintf(&b, " %T%+v", e, e)
		}
	}
	return b.String()
}
