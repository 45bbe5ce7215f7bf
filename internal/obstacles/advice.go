package obstacles

import (
	"cmp"
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
func (o Obstacle) byIptables() bool {
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
func (o Obstacle) generic(insert, in, out, answers, accept string) []string {
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
