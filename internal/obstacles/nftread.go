package obstacles

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// nested splits netlink attributes; what is malformed has none.
func nested(data []byte) map[uint16][]byte {
	all := map[uint16][]byte{}
	d, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return all
	}
	for d.Next() {
		all[d.Type()] = d.Bytes()
	}
	return all
}

// list splits an attribute that holds several of one type.
func list(data []byte) [][]byte {
	var all [][]byte
	d, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return nil
	}
	for d.Next() {
		all = append(all, d.Bytes())
	}
	return all
}

// readTime bounds the wait for the kernel where the context has no end.
const readTime = 15 * time.Second

// nft asks the kernel what nftables has.
type nft struct{ conn *netlink.Conn }

func dialNFT(ctx context.Context) (nft, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nft{}, fmt.Errorf("speak to nftables: %w", err)
	}
	end, limited := ctx.Deadline()
	if !limited {
		end = time.Now().Add(readTime)
	}
	if err := conn.SetDeadline(end); err != nil {
		_ = conn.Close()
		return nft{}, fmt.Errorf("speak to nftables: %w", err)
	}
	return nft{conn}, nil
}

// object is a table, chain, rule, set or list of elements of a family.
type object struct {
	family byte
	expression
}

// dump lists all objects of a kind, of all families where family is 0.
func (n nft) dump(kind uint16, family byte, attrs ...netlink.Attribute) ([]object, error) {
	data, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return nil, err
	}
	// struct nfgenmsg (linux/netfilter/nfnetlink.h): family, version, resource.
	const header = 4
	replies, err := n.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{family, 0, 0, 0}, data...),
	})
	if err != nil {
		return nil, err
	}
	var all []object
	for _, r := range replies {
		if len(r.Data) >= header {
			all = append(all, object{r.Data[0], expression{attr: nested(r.Data[header:])}})
		}
	}
	return all, nil
}

// place names a table among all.
type place struct {
	family byte
	table  string
}

// nftTables reads the tables that could stop a guest's packets: those of the
// families ip, inet and bridge that are not bield's.
func nftTables(ctx context.Context) ([]table, error) {
	n, err := dialNFT(ctx)
	if err != nil {
		return nil, err
	}
	defer n.conn.Close()
	tables, order, err := n.tables()
	if err != nil {
		return nil, fmt.Errorf("list the tables of nftables: %w", err)
	}
	if err := n.chains(tables); err != nil {
		return nil, fmt.Errorf("list the chains of nftables: %w", err)
	}
	if err := n.rules(tables); err != nil {
		return nil, fmt.Errorf("list the rules of nftables: %w", err)
	}
	all := make([]table, 0, len(order))
	for _, at := range order {
		all = append(all, *tables[at])
	}
	return all, nil
}

// ownTable is the name of bield's tables.
const ownTable = "bield"

func (n nft) tables() (map[place]*table, []place, error) {
	objects, err := n.dump(unix.NFT_MSG_GETTABLE, 0)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil, nil // a kernel without nftables has no tables
	}
	if err != nil {
		return nil, nil, err
	}
	families := map[byte]string{unix.NFPROTO_IPV4: "ip", unix.NFPROTO_INET: "inet", unix.NFPROTO_BRIDGE: "bridge"}
	tables, order := map[place]*table{}, []place{}
	for _, o := range objects {
		name, family := text(o.attr[unix.NFTA_TABLE_NAME]), families[o.family]
		dormant := o.number(unix.NFTA_TABLE_FLAGS)&unix.NFT_TABLE_F_DORMANT != 0
		if family == "" || dormant || name == ownTable && family != "ip" {
			continue
		}
		at := place{o.family, name}
		tables[at] = &table{family: family, name: name, command: "nft", chains: map[string]*chain{}}
		order = append(order, at)
	}
	return tables, order, nil
}

// hooks are those of ip, inet and bridge alike (linux/netfilter.h).
func hooks() []string {
	return []string{"prerouting", "input", "forward", "output", "postrouting"}
}

func (n nft) chains(tables map[place]*table) error {
	objects, err := n.dump(unix.NFT_MSG_GETCHAIN, 0)
	if err != nil {
		return err
	}
	for _, o := range objects {
		t, wanted := tables[place{o.family, text(o.attr[unix.NFTA_CHAIN_TABLE])}]
		if !wanted {
			continue
		}
		c := &chain{name: text(o.attr[unix.NFTA_CHAIN_NAME])}
		hook := expression{attr: nested(o.attr[unix.NFTA_CHAIN_HOOK])}
		// A chain of type nat sees only what another kind has let pass.
		if number := hook.number(unix.NFTA_HOOK_HOOKNUM); o.attr[unix.NFTA_CHAIN_HOOK] != nil && int(number) < len(hooks()) && text(o.attr[unix.NFTA_CHAIN_TYPE]) != "nat" {
			c.hook = hooks()[number]
			c.drops = o.attr[unix.NFTA_CHAIN_POLICY] != nil && o.number(unix.NFTA_CHAIN_POLICY) == nfDrop
		}
		t.chains[c.name] = c
	}
	return nil
}

func (n nft) rules(tables map[place]*table) error {
	objects, err := n.dump(unix.NFT_MSG_GETRULE, 0)
	if err != nil {
		return err
	}
	sets := map[place]map[string]elements{}
	for _, o := range objects {
		at := place{o.family, text(o.attr[unix.NFTA_RULE_TABLE])}
		t, wanted := tables[at]
		if !wanted {
			continue
		}
		c, there := t.chains[text(o.attr[unix.NFTA_RULE_CHAIN])]
		if !there {
			continue
		}
		if sets[at] == nil {
			sets[at] = map[string]elements{}
		}
		parts := expressions(o.attr[unix.NFTA_RULE_EXPRESSIONS])
		if err := n.fetch(at, parts, sets[at]); err != nil {
			return err
		}
		c.rules = append(c.rules, nftRule(parts, sets[at]))
	}
	return nil
}

func expressions(data []byte) []expression {
	var all []expression
	for _, one := range list(data) {
		attrs := nested(one)
		all = append(all, expression{text(attrs[unix.NFTA_EXPR_NAME]), nested(attrs[unix.NFTA_EXPR_DATA])})
	}
	return all
}

// fetch gets the elements of the sets that a rule looks up in.
func (n nft) fetch(at place, parts []expression, sets map[string]elements) error {
	for _, e := range parts {
		name := text(e.attr[unix.NFTA_LOOKUP_SET])
		if _, have := sets[name]; e.name != "lookup" || have {
			continue
		}
		objects, err := n.dump(unix.NFT_MSG_GETSET, at.family, netlink.Attribute{Type: unix.NFTA_SET_TABLE, Data: []byte(at.table + "\x00")})
		if err != nil {
			return err
		}
		for _, o := range objects {
			if text(o.attr[unix.NFTA_SET_NAME]) == name {
				if sets[name], err = n.elements(at, name, o.number(unix.NFTA_SET_FLAGS)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (n nft) elements(at place, name string, flags uint32) (elements, error) {
	if flags&unix.NFT_SET_INTERVAL != 0 {
		return elements{}, nil
	}
	objects, err := n.dump(unix.NFT_MSG_GETSETELEM, at.family,
		netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: []byte(at.table + "\x00")},
		netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: []byte(name + "\x00")})
	if err != nil {
		return elements{}, err
	}
	s := elements{plain: true, verdicts: map[string]outcome{}}
	for _, o := range objects {
		for _, one := range list(o.attr[unix.NFTA_SET_ELEM_LIST_ELEMENTS]) {
			attrs := nested(one)
			key := nested(attrs[unix.NFTA_SET_ELEM_KEY])[unix.NFTA_DATA_VALUE]
			// Without a key it is the element for all others.
			s.plain = s.plain && key != nil
			s.verdicts[string(key)] = verdict(nested(attrs[unix.NFTA_SET_ELEM_DATA])[unix.NFTA_DATA_VERDICT])
		}
	}
	return s, nil
}
