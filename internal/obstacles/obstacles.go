package obstacles

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Reader reads the rules of the host's firewalls.
type Reader struct {
	// Root is where /proc is below; "" is "/".
	Root string
	// NoNFTables says that the kernel has no nftables, or has not loaded them:
	// to ask would do so.
	NoNFTables bool
}

// Found is what stands in the way.
type Found struct {
	Obstacles []Obstacle
	// Tables counts those of others.
	Tables int
}

// Sure says that one of the obstacles stops guests for certain.
func (f Found) Sure() bool {
	return slices.ContainsFunc(f.Obstacles, Obstacle.Sure)
}

var (
	// ErrNoSave says that there are legacy rules and no program to list them.
	ErrNoSave = errors.New("the kernel has tables of the legacy iptables, and there is no iptables-legacy-save to list them")
	// ErrMayNotRead says that the kernel shows the rules to others only.
	ErrMayNotRead = errors.New("the firewall's rules can't be read: CAP_NET_ADMIN is missing")
)

// Find says what stands in the way of guests, in the order of the tables. What
// could be read counts also beside an error.
func (r Reader) Find(ctx context.Context, g Guests) (Found, error) {
	tables, err := r.tables(ctx)
	found := Found{Obstacles: judge(tables, g.flows()), Tables: len(tables)}
	if errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("%w (%w)", ErrMayNotRead, err)
	}
	return found, err
}

// tables lists what can be listed, and why the rest can't.
func (r Reader) tables(ctx context.Context) ([]table, error) {
	var tables []table
	var errs [2]error
	if !r.NoNFTables {
		tables, errs[0] = nftTables(ctx)
	}
	legacy, err := r.legacyTables(ctx)
	errs[1] = err
	return append(tables, legacy...), errors.Join(errs[:]...)
}

// Sure is false where not all rules before the end of the chain are understood.
func (o Obstacle) Sure() bool { return !o.fate.unsure }

// Obstacle is a base chain of somebody else's that stops packets of guests.
type Obstacle struct {
	table table
	base  *chain
	fate  fate
	flows []string
}

// obstacles finds the chains that stop flows, in the order of the tables.
func judge(tables []table, flows []flow) []Obstacle {
	var all []Obstacle
	for _, t := range tables {
		for _, c := range t.bases() {
			o := Obstacle{table: t, base: c}
			for _, f := range flows {
				p, seen := f.sees(t.family, c.hook)
				if !seen {
					continue
				}
				if end := t.judge(c, p); end.verb == drop {
					o.fate = worse(o.fate, end)
					o.flows = append(o.flows, f.what)
				}
			}
			if o.flows != nil {
				all = append(all, o)
			}
		}
	}
	return all
}

func worse(a, b fate) fate {
	if a.verb == drop && !a.unsure {
		return a
	}
	return b
}

func (t table) bases() []*chain {
	var all []*chain
	for _, c := range t.chains {
		if c.hook != "" {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b *chain) int { return strings.Compare(a.name, b.name) })
	return all
}

// String says which chain stops what.
func (o Obstacle) String() string {
	what := "its rules"
	switch {
	case o.fate.policy:
		what = "its policy"
	case o.fate.at != o.base.name:
		what = "the rules of its chain " + o.fate.at
	}
	verb := map[bool]string{true: " drops ", false: " drop "}[o.fate.policy]
	if o.fate.unsure {
		verb = " may drop (not all of its rules are understood) "
	}
	kind := "nftables table"
	if o.table.command != "nft" {
		kind = "legacy iptables table"
	}
	return fmt.Sprintf("%s %s %s, chain %s: %s%s%s", kind, o.table.family, o.table.name, o.base.name, what, verb, strings.Join(o.flows, ", and "))
}
