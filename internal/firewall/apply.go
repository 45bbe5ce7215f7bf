package firewall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/userdata"
	mnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// answerTime bounds the wait for the kernel's answer: a kernel without nftables
// acknowledges only the first message of a batch, and the library would wait
// for the others.
const answerTime = 30 * time.Second

// batchBytes is room for a transaction, which is sent as one message, and for
// its answers: some 20,000 VMs.
const batchBytes = 4 << 20

// elementsAtOnce keeps a message's list of elements below the 64 KiB that a
// netlink attribute can hold, at less than 100 bytes an element.
const elementsAtOnce = 500

// Set puts the rules of the configuration in force, in place of the ones of an
// earlier Set, in one transaction. Connections that are there go on. A table
// named bield that is not the owner's is left alone, and is an error that names
// it, as is a family that the kernel lacks; then nothing was changed.
func Set(ctx context.Context, c Config) error {
	tables, err := build(c)
	if err != nil {
		return err
	}
	conn, err := connect(ctx)
	if err != nil {
		return err
	}
	present, err := list(conn)
	if err != nil {
		return err
	}
	if err := checkForeign(present, c.Owner); err != nil {
		return err
	}
	for _, t := range tables {
		if _, there := present[t.family]; there {
			conn.DelTable(&nftables.Table{Name: tableName, Family: t.family})
		}
		if err := add(conn, tableName, t); err != nil {
			return fmt.Errorf("build nftables table %s %s: %w", family(t.family), tableName, err)
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("set the nftables rules: %w", advise(ctx, tables, err))
	}
	return nil
}

// Free says, as Set would, that a table of our name is somebody else's, which
// wraps ErrForeign.
func Free(ctx context.Context, owner string) error {
	conn, err := connect(ctx)
	if err != nil {
		return err
	}
	present, err := list(conn)
	if err != nil {
		return err
	}
	return checkForeign(present, owner)
}

// Remove deletes the owner's tables. Missing ones, and somebody else's of that
// name, are no error.
func Remove(ctx context.Context, owner string) error {
	conn, err := connect(ctx)
	if err != nil {
		return err
	}
	present, err := list(conn)
	if err != nil {
		return err
	}
	for f, t := range present {
		if t.ownedBy(owner) {
			conn.DelTable(&nftables.Table{Name: tableName, Family: f})
		}
	}
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the nftables rules: %w", explain(err))
	}
	return nil
}

func connect(ctx context.Context) (*nftables.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	end := time.Now().Add(answerTime)
	if d, ok := ctx.Deadline(); ok && d.Before(end) {
		end = d
	}
	conn, err := nftables.New(nftables.WithSockOptions(func(c *mnetlink.Conn) error {
		// Without privilege it stays at the system's limit; what follows says so.
		_ = c.SetWriteBuffer(batchBytes)
		_ = c.SetReadBuffer(batchBytes)
		return c.SetDeadline(end)
	}))
	if err != nil {
		return nil, fmt.Errorf("speak to nftables: %w", err)
	}
	return conn, nil
}

// families are those that we have a table in.
func families() []nftables.TableFamily {
	return []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyBridge}
}

func family(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyINet:
		return "inet"
	case nftables.TableFamilyBridge:
		return "bridge"
	}
	return fmt.Sprint("number ", byte(f))
}

// found is a table of our name, whoever made it.
type found struct {
	flags  uint32
	chains []*nftables.Chain
}

func (f found) ownedBy(owner string) bool {
	return slices.ContainsFunc(f.chains, func(c *nftables.Chain) bool { return c.Name == marker(owner) })
}

// list finds the tables of our name.
func list(conn *nftables.Conn) (map[nftables.TableFamily]found, error) {
	present := map[nftables.TableFamily]found{}
	for _, f := range families() {
		tables, err := conn.ListTablesOfFamily(f)
		if err != nil {
			return nil, fmt.Errorf("list nftables tables of family %s: %w", family(f), explain(err))
		}
		i := slices.IndexFunc(tables, func(t *nftables.Table) bool { return t.Name == tableName })
		if i < 0 {
			continue
		}
		chains, err := conn.ListChainsOfTableFamily(f)
		if err != nil {
			return nil, fmt.Errorf("list nftables chains of family %s: %w", family(f), explain(err))
		}
		chains = slices.DeleteFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name != tableName })
		present[f] = found{flags: tables[i].Flags, chains: chains}
	}
	return present, nil
}

// ErrForeign says that a table has bield's name and somebody else's marker.
var ErrForeign = errors.New("is not this bield's")

func checkForeign(present map[nftables.TableFamily]found, owner string) error {
	var errs []error
	for _, f := range families() {
		if t, there := present[f]; there && !t.ownedBy(owner) {
			errs = append(errs, fmt.Errorf("nftables table %s %s %w (it has no chain %s): if no other bield uses this network namespace, remove it with `nft delete table %s %s`",
				family(f), tableName, ErrForeign, marker(owner), family(f), tableName))
		}
	}
	return errors.Join(errs...)
}

// add appends a table to the transaction; it must not exist by then.
func add(conn *nftables.Conn, name string, t table) error {
	made := conn.CreateTable(&nftables.Table{Name: name, Family: t.family})
	for _, s := range t.sets {
		if err := addSet(conn, made, s); err != nil {
			return fmt.Errorf("set %s: %w", s.name, err)
		}
	}
	for _, c := range t.chains {
		conn.AddChain(c.nft(made))
	}
	for _, c := range t.chains {
		for _, r := range c.rules {
			conn.AddRule(&nftables.Rule{Table: made, Chain: &nftables.Chain{Name: c.name}, Exprs: r.exprs, UserData: r.comment()})
		}
	}
	return nil
}

func (c chain) nft(t *nftables.Table) *nftables.Chain {
	if c.base == nil {
		return &nftables.Chain{Name: c.name, Table: t}
	}
	policy := nftables.ChainPolicyAccept // what is not the guests' is none of our business
	return &nftables.Chain{Name: c.name, Table: t, Type: c.base.kind, Hooknum: &c.base.hook, Priority: &c.base.priority, Policy: &policy}
}

func (r rule) comment() []byte {
	if r.why == "" {
		return nil
	}
	return userdata.AppendString(nil, userdata.TypeComment, r.why)
}

func addSet(conn *nftables.Conn, t *nftables.Table, s set) error {
	key, err := nftables.ConcatSetType(s.types...)
	if err != nil {
		return err
	}
	made := &nftables.Set{Table: t, Name: s.name, KeyType: key, KeyByteOrder: binaryutil.NativeEndian, Concatenation: len(s.types) > 1, Interval: s.ranges}
	if key == nftables.TypeIPAddr {
		made.KeyByteOrder = binaryutil.BigEndian // for `nft list` alone
	}
	if err := conn.AddSet(made, nil); err != nil {
		return err
	}
	for elements := range slices.Chunk(s.elements(), elementsAtOnce) {
		if err := conn.SetAddElements(made, elements); err != nil {
			return err
		}
	}
	return nil
}

func (s set) elements() []nftables.SetElement {
	elements := make([]nftables.SetElement, len(s.keys))
	for i, key := range s.keys {
		elements[i].Key = key
		if s.ranges {
			elements[i].KeyEnd = s.ends[i]
		}
	}
	return elements
}

// explain adds what a person can do about an error of the kernel's.
func explain(err error) error {
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: this needs root, or CAP_NET_ADMIN in this network namespace", err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		// The library says so for every message of the transaction.
		return fmt.Errorf("the kernel does not answer about nftables within %s: %w", answerTime, os.ErrDeadlineExceeded)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPROTONOSUPPORT):
		return fmt.Errorf("%w: the running kernel has no nftables; load its modules with `modprobe nf_tables`", err)
	}
	return err
}

// advise explains a failed transaction. The kernel does not say which of the
// tables it could not make, so each is tried alone.
func advise(ctx context.Context, tables []table, err error) error {
	if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrDeadlineExceeded) {
		return explain(err)
	}
	for _, t := range tables {
		if probe := try(ctx, t); probe != nil {
			return fmt.Errorf("the running kernel cannot do what bield needs of nftables family %s: %w: load its modules (`modprobe -a nf_tables nft_ct nft_masq nft_redir nft_fib_inet nft_reject_inet nft_log nfnetlink_log`), or use a kernel with CONFIG_NF_TABLES_INET, CONFIG_NF_TABLES_BRIDGE, CONFIG_NFT_CT, CONFIG_NFT_MASQ, CONFIG_NFT_REDIR, CONFIG_NFT_FIB_INET, CONFIG_NFT_REJECT_INET, CONFIG_NFT_LOG and CONFIG_NETFILTER_NETLINK_LOG", family(t.family), probe)
		}
	}
	return err
}

// try makes and deletes a table in one transaction, which leaves nothing.
func try(ctx context.Context, t table) error {
	const probe = tableName + "_probe"
	conn, err := connect(ctx)
	if err != nil {
		return err
	}
	if err := add(conn, probe, t); err != nil {
		return err
	}
	conn.DelTable(&nftables.Table{Name: probe, Family: t.family})
	return conn.Flush()
}
