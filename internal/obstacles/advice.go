package obstacles

import (
	"cmp"
	"fmt"
	"strings"
)

// Advice is how a person tells that firewall to let guests pass: commands and
// remarks, one a line. Each way lets through only what bield's own rules then
// still filter.
func (o Obstacle) Advice(g Guests) []string {
	bridge, outward := g.Bridge, cmp.Or(g.External, "any")
	iptables := "sudo " + o.table.command
	if o.table.command == "nft" {
		iptables = "sudo iptables" // the one that writes nftables
	}
	switch {
	case o.table.chains[dockerChain] != nil && o.base.hook == "forward":
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
	case o.table.hasPrefix("ufw-") && o.base.hook == "input":
		return []string{"ufw: sudo ufw allow in on " + bridge + " (bield's own rules say what guests may of the host)"}
	case o.byFirewalld():
		return firewalld(g)
	case o.table.command == "nft" && !o.byIptables():
		return o.generic(g, dialect{"sudo nft insert rule " + o.table.family + " " + o.table.name + " " + o.base.name, "iifname " + bridge, "oifname " + bridge, "ct state established,related", "ct status dnat", "%s dport %d", "accept"})
	}
	return o.generic(g, dialect{iptables + " -t " + o.table.name + " -I " + o.base.name, "-i " + bridge, "-o " + bridge, "-m conntrack --ctstate ESTABLISHED,RELATED", "-m conntrack --ctstate DNAT", "-p %s --dport %d", "-j ACCEPT"})
}

// byIptables says that iptables made the chain, by way of nftables.
func (o Obstacle) byIptables() bool {
	return o.table.family == "ip" && o.base.name == strings.ToUpper(o.base.hook)
}

// firewalld gets a zone for the guests and a policy from there outward. In the
// zone trusted they would reach all of the host too.
func firewalld(g Guests) []string {
	var all []string
	options := []string{
		"--new-zone=bield", "--zone=bield --add-interface=" + g.Bridge,
		"--new-policy=bield-out", "--policy=bield-out --add-ingress-zone=bield", "--policy=bield-out --add-egress-zone=ANY", "--policy=bield-out --set-target=ACCEPT",
	}
	for _, p := range g.HostPorts {
		options = append(options, fmt.Sprintf("--zone=bield --add-port=%d/%s", p.Port, p.Protocol))
	}
	for _, option := range options {
		all = append(all, "firewalld: sudo firewall-cmd --permanent "+option)
	}
	return append(all, "firewalld: sudo firewall-cmd --reload")
}

// dialect is how a program is told of a rule: the words to put it before all
// others, and what it matches and does.
type dialect struct{ insert, in, out, answers, redirected, port, accept string }

func (d dialect) rule(w ...string) string {
	return strings.Join(append([]string{d.insert}, w...), " ")
}

// generic is a rule before all others of the base chain. To the host it lets
// through what bield needs alone.
func (o Obstacle) generic(g Guests, d dialect) []string {
	const keep = "and put the same into the file that this firewall is set up from"
	switch {
	case o.table.family == "bridge":
		return []string{d.rule(d.accept), keep}
	case o.base.hook == "prerouting":
		return []string{d.rule(d.in, d.accept), keep}
	case o.base.hook == "input":
		return append(d.toHost(g), keep)
	case o.base.hook == "forward":
		return []string{d.rule(d.in, d.accept), d.rule(d.out, d.answers, d.accept), keep}
	}
	return []string{d.rule(d.out, d.accept), keep}
}

func (d dialect) toHost(g Guests) []string {
	all := []string{d.rule(d.in, d.answers, d.accept)}
	if g.Redirected {
		all = append(all, d.rule(d.in, d.redirected, d.accept))
	}
	for _, p := range g.HostPorts {
		all = append(all, d.rule(d.in, fmt.Sprintf(d.port, p.Protocol, p.Port), d.accept))
	}
	return all
}

func (t table) hasPrefix(prefix string) bool {
	for name := range t.chains {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}
