package preflight

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// flow is packets that guests can't do without, and the hooks that see them.
type flow struct {
	what   string
	packet packet
	hooks  []string
	// bridged are the hooks of the bridge family that see them, as frames of a
	// tap or to one.
	bridged []string
}

// sees says whether a table's hook sees the flow, and the packet as it sees it.
func (f flow) sees(family, hook string) (packet, bool) {
	if family != "bridge" {
		return f.packet.at(hook), slices.Contains(f.hooks, hook)
	}
	p := f.packet
	p.in, p.out = end{}, end{}
	return p, slices.Contains(f.bridged, hook)
}

// flows are those of a host's guests: to the outside and back, and between the
// host and them. Whatever else a firewall drops is its owner's wish.
func (h Host) flows(v view) []flow {
	bridge, subnet := v.end(h.Config.Host.Bridge), h.Config.Host.Subnet
	outside := end{}
	if name := cmp.Or(h.Config.Host.ExternalInterface, v.outward()); name != "" {
		outside = v.end(name)
	}
	gateway := netip.PrefixFrom(h.Config.Host.Gateway(), 32)
	// A name server stands for all that guests reach.
	var far netip.Prefix
	if servers := h.Config.Host.Nameservers; len(servers) > 0 && servers[0].Is4() {
		far = netip.PrefixFrom(servers[0], 32)
	}
	fromGuest, toGuest := []string{"prerouting", "input"}, []string{"output", "postrouting"}
	return []flow{
		{"what guests send to the outside", packet{in: bridge, out: outside, source: subnet, destination: far, state: stateNew}, []string{"prerouting", "forward", "postrouting"}, fromGuest},
		{"the answers that guests get from the outside", packet{in: outside, out: bridge, source: far, destination: subnet, state: stateEstablished}, []string{"forward", "postrouting"}, toGuest},
		{"the host's connections to guests", packet{out: bridge, source: gateway, destination: subnet, state: stateNew}, toGuest, toGuest},
		{"the answers of guests to the host", packet{in: bridge, source: subnet, destination: gateway, state: stateEstablished}, fromGuest, fromGuest},
	}
}

// noIndex is that of an interface which is not there yet: none has it.
const noIndex = 1<<31 - 1

func (v view) end(name string) end {
	e := end{known: true, name: name, index: noIndex}
	if link := v.link(name); link != nil {
		e.index = uint32(link.Attrs().Index)
	}
	return e
}

// at is the packet as a hook sees it: before routing it has no way out, behind
// it no way in.
func (p packet) at(hook string) packet {
	none := end{known: true}
	switch hook {
	case "prerouting", "input":
		p.out = none
	case "output", "postrouting":
		p.in = none
	}
	return p
}

// obstacle is a base chain of somebody else's that stops a flow.
type obstacle struct {
	table table
	base  *chain
	fate  fate
	flows []string
}

// obstacles finds the chains that stop flows, in the order of the tables.
func obstacles(tables []table, flows []flow) []obstacle {
	var all []obstacle
	for _, t := range tables {
		for _, c := range t.bases() {
			o := obstacle{table: t, base: c}
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

func (o obstacle) String() string {
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

func (h Host) otherFirewalls(ctx context.Context) Result {
	if !h.root() {
		return needsRoot("reading the firewall's rules")
	}
	v, err := look(ctx)
	if err != nil {
		return warn(err.Error())
	}
	tables, err := h.allTables(ctx)
	found := obstacles(tables, h.flows(v))
	switch {
	case found != nil:
		return h.inTheWay(found, cmp.Or(v.outward(), "any"))
	case errors.Is(err, errNoSave):
		return warn(err.Error(), "install iptables, and run this again")
	case errors.Is(err, unix.EPERM):
		return skipped("the firewall's rules can't be read: CAP_NET_ADMIN is missing", "run this in the host's own user namespace")
	case err != nil:
		return warn(err.Error())
	case len(tables) == 0:
		return ok("none")
	}
	return ok("%d table%s of others, and nothing in them stops guests", len(tables), map[bool]string{false: "s"}[len(tables) == 1])
}

// allTables lists what can be listed, and why the rest can't.
func (h Host) allTables(ctx context.Context) ([]table, error) {
	var tables []table
	var errs [2]error
	nftables := feature{"nftables", "NF_TABLES", "nf_tables"}
	// Where the module is not loaded there are no rules, and to ask would load it.
	if where := h.readKernel().find(nftables); where == present || where == unknown {
		tables, errs[0] = nftTables(ctx)
	}
	legacy, err := h.legacyTables(ctx)
	errs[1] = err
	return append(tables, legacy...), errors.Join(errs[:]...)
}

func (h Host) inTheWay(found []obstacle, outward string) Result {
	var lines, do []string
	sure := false
	for _, o := range found {
		lines = append(lines, o.String())
		sure = sure || !o.fate.unsure
		for _, command := range o.advice(h.Config.Host.Bridge, outward) {
			if !slices.Contains(do, command) {
				do = append(do, command)
			}
		}
	}
	if sure {
		return fail(strings.Join(lines, "\n"), do...)
	}
	return warn(strings.Join(lines, "\n"), do...)
}

// advice is how that firewall is told to let guests pass. Each way lets through
// only what bield's own rules then still filter.
func (o obstacle) advice(bridge, outward string) []string {
	iptables := "sudo " + o.table.command
	if o.table.command == "nft" {
		iptables = "sudo iptables" // the one that writes nftables
	}
	switch {
	case o.table.chains["DOCKER-USER"] != nil && o.base.hook == "forward":
		return []string{
			"Docker: " + iptables + " -I DOCKER-USER -i " + bridge + " -j ACCEPT",
			"Docker: " + iptables + " -I DOCKER-USER -o " + bridge + " -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
			`or for good: "ip-forward-no-drop": true in /etc/docker/daemon.json (Docker 28 and newer), then restart Docker`,
		}
	case o.table.hasPrefix("ufw-") && o.base.hook == "forward":
		out := ""
		if outward != "any" {
			out = " out on " + outward
		}
		return []string{"ufw: sudo ufw route allow in on " + bridge + out}
	case o.table.name == "firewalld", o.table.hasPrefix("FWD_"), o.table.hasPrefix("FWDI_"):
		return firewalld(bridge)
	case o.table.command == "nft" && !o.byIptables():
		return o.generic("sudo nft insert rule "+o.table.family+" "+o.table.name+" "+o.base.name, "iifname "+bridge, "oifname "+bridge, "ct state established,related", "accept")
	}
	return o.generic(iptables+" -t "+o.table.name+" -I "+o.base.name, "-i "+bridge, "-o "+bridge, "-m conntrack --ctstate ESTABLISHED,RELATED", "-j ACCEPT")
}

// byIptables says that iptables made the chain, by way of nftables.
func (o obstacle) byIptables() bool {
	return o.table.family == "ip" && o.base.name == strings.ToUpper(o.base.hook)
}

// firewalld gets a zone for the guests and a policy from there outward. In the
// zone trusted they would reach all of the host too.
func firewalld(bridge string) []string {
	var all []string
	for _, option := range []string{
		"--new-zone=bield", "--zone=bield --add-interface=" + bridge,
		"--new-policy=bield-out", "--policy=bield-out --add-ingress-zone=bield", "--policy=bield-out --add-egress-zone=ANY", "--policy=bield-out --set-target=ACCEPT",
	} {
		all = append(all, "firewalld: sudo firewall-cmd --permanent "+option)
	}
	return append(all, "firewalld: sudo firewall-cmd --reload")
}

// generic is a rule before all others of the base chain. To the host it lets
// answers alone.
func (o obstacle) generic(insert, in, out, answers, accept string) []string {
	words := func(w ...string) string { return strings.Join(append([]string{insert}, w...), " ") }
	const keep = "and put the same into the file that this firewall is set up from"
	switch {
	case o.table.family == "bridge":
		return []string{words(accept), keep}
	case o.base.hook == "prerouting":
		return []string{words(in, accept), keep}
	case o.base.hook == "input":
		return []string{words(in, answers, accept), keep}
	case o.base.hook == "forward":
		return []string{words(in, accept), words(out, answers, accept), keep}
	}
	return []string{words(out, accept), keep}
}

func (t table) hasPrefix(prefix string) bool {
	for name := range t.chains {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}
