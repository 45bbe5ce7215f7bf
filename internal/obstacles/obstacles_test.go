package obstacles

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"bield/internal/spec"
)

const (
	toOutside   = "what guests send to the outside"
	fromOutside = "the answers that guests get from the outside"
	toGuests    = "the host's connections to guests"
	fromGuests  = "the answers of guests to the host"
)

// defaultFlows are those of a host with the defaults that goes out by eth0.
func defaultFlows() (Guests, []flow) {
	g := GuestsOf(spec.DefaultHost(), "eth0")
	return g, g.flows()
}

func TestSavedRules(t *testing.T) {
	tests := []struct {
		file   string
		unsure bool
		stops  string // the flows
		advice string
	}{
		{"docker.save", false, toOutside + ", and " + fromOutside, "sudo iptables-legacy -I DOCKER-USER -i microbr -j ACCEPT"},
		{"docker-mended.save", false, "", ""},
		{"ufw.save", false, toOutside, "ufw: sudo ufw route allow in on microbr out on eth0"},
		{"ufw-mended.save", false, "", ""},
		{"libvirt.save", false, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", tt.file))
			must(t, err)
			g, flows := defaultFlows()
			found := judge(parseSave(text, "iptables-legacy"), flows)
			if tt.stops == "" {
				if found != nil {
					t.Errorf("%v", found)
				}
				return
			}
			if len(found) != 1 || found[0].fate.unsure != tt.unsure || strings.Join(found[0].flows, ", and ") != tt.stops {
				t.Fatalf("%v", found)
			}
			says := found[0].String() + "\n" + strings.Join(found[0].Advice(g), "\n")
			for _, want := range []string{"legacy iptables table ip filter, chain FORWARD: its policy drops " + tt.stops, tt.advice} {
				if !strings.Contains(says, want) {
					t.Errorf("%q lacks %q", says, want)
				}
			}
		})
	}
}

// TestSavedRule holds single rules before a policy of DROP against what guests
// send to the outside.
func TestSavedRule(t *testing.T) {
	tests := []struct{ rules, want string }{
		{"", "drop"},
		{"-A FORWARD -i microbr -j ACCEPT", "pass"},
		{"-A FORWARD -i micro+ -j ACCEPT", "pass"},
		{"-A FORWARD -i + -j ACCEPT", "pass"},
		{"-A FORWARD ! -i microbr -j ACCEPT", "drop"},
		{"-A FORWARD -i microbr -o eth1 -j ACCEPT", "drop"},
		{"-A FORWARD -s 192.168.0.0/16 -j ACCEPT", "pass"},
		{"-A FORWARD -s 192.168.83.0/24 ! -d 10.0.0.0/8 -j ACCEPT", "pass"},
		{"-A FORWARD ! -s 192.168.83.0/24 -j ACCEPT", "drop"},
		{"-A FORWARD -s 192.168.83.7/32 -j ACCEPT", "unsure"},
		{"-A FORWARD -m conntrack --ctstate NEW -j ACCEPT", "pass"},
		{"-A FORWARD -m conntrack ! --ctstate NEW -j ACCEPT", "drop"},
		{"-A FORWARD -p tcp -m tcp --dport 443 -j ACCEPT", "unsure"},
		{"-A FORWARD -p tcp -m tcp --dport 25 -j DROP\n-A FORWARD -i microbr -j ACCEPT", "pass"},
		{"-A FORWARD -i microbr -j LOG --log-prefix \"a -j ACCEPT\"", "drop"},
		{"-A FORWARD -i microbr -g OWN\n-A FORWARD -j ACCEPT", "drop"},
		{"-A FORWARD -i microbr -j OWN\n-A FORWARD -j ACCEPT", "pass"},
		{"-A FORWARD -p udp -j ACCEPT", "drop"},
		{"-A FORWARD ! -p udp -j ACCEPT", "pass"},
		{"-A OWN -m mark --mark 0x1 -j ACCEPT\n-A FORWARD -j OWN", "unsure"},
		{"-A OWN -j RETURN\n-A OWN -j ACCEPT\n-A FORWARD -j OWN", "drop"},
		{"-A FORWARD -j UNHEARD-OF", "pass"},
		{"-A FORWARD -j OWN\n-A OWN -j FORWARD", "unsure"},
		{"-A FORWARD", "drop"},
	}
	_, flows := defaultFlows()
	for _, tt := range tests {
		text := "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OWN - [0:0]\n" + tt.rules + "\nCOMMIT\n"
		got := "pass"
		if found := judge(parseSave([]byte(text), "iptables"), flows[:1]); len(found) > 0 {
			got = map[bool]string{false: "drop", true: "unsure"}[found[0].fate.unsure]
		}
		if got != tt.want {
			t.Errorf("%q: %s, want %s", tt.rules, got, tt.want)
		}
	}
}

func FuzzParseSave(f *testing.F) {
	files, err := filepath.Glob("testdata/*.save")
	if err != nil || len(files) == 0 {
		f.Fatal("no samples", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	_, flows := defaultFlows()
	f.Fuzz(func(_ *testing.T, text []byte) { judge(parseSave(text, "iptables"), flows) })
}

func FuzzNFTRule(f *testing.F) {
	f.Add([]byte{}, "meta")
	f.Add([]byte{8, 0, 1, 0, 0, 0, 0, 1, 8, 0, 2, 0, 0, 0, 0, 6}, "cmp")
	_, flows := defaultFlows()
	f.Fuzz(func(_ *testing.T, data []byte, name string) {
		e := expression{name, nested(data)}
		r := nftRule([]expression{e, {"bitwise", nested(data)}, {"lookup", nested(data)}, {"immediate", nested(data)}, {"match", nested(data)}}, nil)
		for _, flow := range flows {
			r(flow.packet)
		}
	})
}

// nftTests are rulesets as nft(8) reads them, and what of guests' packets they
// stop: with "?" what they may stop.
func nftTests() []struct{ name, rules, want string } {
	forward := func(rules string) string {
		return "table inet theirs { chain forward { type filter hook forward priority 0; policy drop;\n" + rules + "\n} }"
	}
	return []struct{ name, rules, want string }{
		{"nothing", "", ""},
		{"a policy", forward(""), toOutside + ", and " + fromOutside},
		{"own rule", forward(`iifname "microbr" accept; oifname "microbr" ct state established,related accept`), ""},
		{"one way", forward(`iifname "microbr" accept`), fromOutside},
		{"state set", forward(`ct state { established, related } accept`), toOutside},
		{"state map", forward(`ct state vmap { invalid : drop, established : accept, related : accept }; iifname { "docker0", "microbr" } accept`), ""},
		{"other names", forward(`iifname != "microbr" accept; ct state established accept`), toOutside},
		{"wildcard", forward(`iifname "micro*" accept; oifname "micro*" accept`), ""},
		{"source", forward(`ip saddr 192.168.83.0/24 accept; ip daddr 192.168.0.0/16 accept`), ""},
		{"other source", forward(`ip saddr 172.17.0.0/16 accept; ip daddr 172.17.0.0/16 accept`), toOutside + ", and " + fromOutside},
		{"index", forward(`iif "lo" accept; ct state established accept`), toOutside},
		{"IPv6 alone", forward(`meta nfproto ipv6 accept; ct state established accept`), toOutside},
		{"IPv4", forward(`meta nfproto ipv4 accept`), ""},
		{"ports", forward(`tcp dport 443 accept; ct state established accept`), "?" + toOutside},
		{"other protocols", forward(`meta l4proto icmp accept; ip protocol udp accept; ct state established accept`), toOutside},
		{"TCP", forward(`ip protocol tcp accept`), ""},
		{"mark", forward(`meta mark 7 accept; ct state established accept`), "?" + toOutside},
		{"interval set", forward(`ip daddr { 10.0.0.0/8, 172.16.0.0/12 } drop; meta nfproto ipv4 accept`), ""},
		{"jump and return", "table ip theirs { chain own { iifname \"microbr\" return; accept; }\nchain forward { type filter hook forward priority 0; policy drop; jump own; } }", toOutside},
		{"reject", "table ip theirs { chain forward { type filter hook forward priority 0; oifname \"microbr\" counter reject; } }", fromOutside},
		{"invalid alone", "table ip theirs { chain forward { type filter hook forward priority 0; ct state invalid drop; } }", ""},
		{"a port alone", "table ip theirs { chain forward { type filter hook forward priority 0; tcp dport 25 drop; } }", ""},
		{"input", "table ip theirs { chain input { type filter hook input priority 0; policy drop; iif lo accept; } }", fromGuests},
		{"input as usual", "table ip theirs { chain input { type filter hook input priority 0; policy drop; ct state established,related accept; } }", ""},
		{"output", "table ip theirs { chain output { type filter hook output priority 0; oifname != \"lo\" drop; } }", toGuests},
		{"prerouting", "table ip theirs { chain raw { type filter hook prerouting priority -300; iifname \"microbr\" drop; } }", toOutside + ", and " + fromGuests},
		{"postrouting has no way in", "table ip theirs { chain post { type filter hook postrouting priority 0; iifname \"microbr\" drop; } }", ""},
		{"IPv6 table", "table ip6 theirs { chain forward { type filter hook forward priority 0; policy drop; } }", ""},
		{"dormant", "table ip theirs { flags dormant; chain forward { type filter hook forward priority 0; policy drop; } }", ""},
		{"bridge", "table bridge theirs { chain input { type filter hook input priority 0; policy drop; } }", toOutside + ", and " + fromGuests},
		{"bridge, one tap", "table bridge theirs { chain input { type filter hook input priority 0; iifname \"vnet0\" drop; } }", ""},
		{"bield's own", "table inet bield { chain forward { type filter hook forward priority 0; policy drop; } }", ""},
		{"firewalld", firewalldRules, toOutside},
	}
}

// firewalldRules are the shape of firewalld's, with one interface in its zone.
const firewalldRules = `table inet firewalld {
 chain filter_FORWARD { type filter hook forward priority 10; policy accept;
  ct state { established, related } accept; ct status dnat accept; iifname "lo" accept; ct state invalid drop
  jump filter_FORWARD_ZONES; reject with icmpx admin-prohibited }
 chain filter_FORWARD_ZONES { iifname "eth0" goto filter_FWD_public; goto filter_FWD_public }
 chain filter_FWD_public { jump filter_FWD_public_allow; reject with icmpx admin-prohibited }
 chain filter_FWD_public_allow { oifname "eth1" accept }
 chain filter_INPUT { type filter hook input priority 10; policy accept;
  ct state { established, related } accept; iifname "lo" accept; ct state invalid drop; reject with icmpx admin-prohibited }
}`

// TestNFTables reads them back from the real kernel.
func TestNFTables(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		skip(t, "there is no nft")
	}
	if !inChild(t, syscall.CLONE_NEWNET) {
		return
	}
	_, flows := defaultFlows()
	for _, tt := range nftTests() {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command("nft", "-f", "-")
			cmd.Stdin = strings.NewReader("flush ruleset\n" + strings.ReplaceAll(tt.rules, "}", "\n}") + "\n")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("nft: %v: %s", err, out)
			}
			tables, err := nftTables(t.Context())
			must(t, err)
			var got []string
			for _, o := range judge(tables, flows) {
				mark := map[bool]string{true: "?"}[o.fate.unsure]
				got = append(got, mark+strings.Join(o.flows, ", and "))
			}
			if strings.Join(got, "; ") != tt.want {
				t.Errorf("stops %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAdvice(t *testing.T) {
	base := func(hook string) *chain { return &chain{name: strings.ToUpper(hook), hook: hook} }
	named := func(name, command string, chains ...string) table {
		t := table{family: "ip", name: name, command: command, chains: map[string]*chain{}}
		for _, c := range chains {
			t.chains[c] = &chain{name: c}
		}
		return t
	}
	tests := []struct {
		name string
		o    Obstacle
		want string
	}{
		{"Docker", Obstacle{table: named("filter", "nft", "DOCKER-USER"), base: base("forward")}, "sudo iptables -I DOCKER-USER -o microbr -m conntrack"},
		{"Docker, input", Obstacle{table: named("filter", "nft", "DOCKER-USER"), base: base("input")}, "sudo iptables -t filter -I INPUT -i microbr -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"},
		{"ufw", Obstacle{table: named("filter", "nft", "ufw-user-forward"), base: base("forward")}, "sudo ufw route allow in on microbr out on eth0"},
		{"firewalld", Obstacle{table: named("firewalld", "nft"), base: &chain{name: "filter_FORWARD", hook: "forward"}}, "--policy=bield-out --set-target=ACCEPT"},
		{"iptables", Obstacle{table: named("filter", "nft"), base: base("output")}, "sudo iptables -t filter -I OUTPUT -o microbr -j ACCEPT"},
		{"legacy", Obstacle{table: named("raw", "iptables-legacy"), base: base("prerouting")}, "sudo iptables-legacy -t raw -I PREROUTING -i microbr -j ACCEPT"},
		{"bridge", Obstacle{table: table{family: "bridge", name: "x", command: "nft"}, base: &chain{name: "in", hook: "input"}}, "sudo nft insert rule bridge x in accept"},
	}
	for _, tt := range tests {
		if got := strings.Join(tt.o.Advice(Guests{Bridge: "microbr", External: "eth0"}), "\n"); !strings.Contains(got, tt.want) {
			t.Errorf("%s: %s", tt.name, got)
		}
	}
}

// fakeProc is a host with these tables of the legacy iptables.
func fakeProc(t *testing.T, names string) Reader {
	t.Helper()
	r := Reader{Root: t.TempDir()}
	must(t, os.MkdirAll(filepath.Join(r.Root, "proc/net"), 0o755))
	must(t, os.WriteFile(filepath.Join(r.Root, "proc/net/ip_tables_names"), []byte(names), 0o644))
	return r
}

func TestLegacyTables(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	h := fakeProc(t, "nat\nfilter\n")
	if _, err := h.legacyTables(t.Context()); !errors.Is(err, ErrNoSave) {
		t.Errorf("no program: %v", err)
	}
	// The one that writes nftables is not asked.
	script := func(name, text string) {
		must(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+text), 0o755))
	}
	script("iptables-save", "echo 'iptables-save v1.8.9 (nf_tables)'")
	if _, err := h.legacyTables(t.Context()); !errors.Is(err, ErrNoSave) {
		t.Errorf("nf_tables: %v", err)
	}
	script("iptables-legacy-save", "printf '*filter\\n:FORWARD DROP [0:0]\\nCOMMIT\\n'")
	tables, err := h.legacyTables(t.Context())
	if err != nil || len(tables) != 1 || !tables[0].chains["FORWARD"].drops {
		t.Errorf("%v, %v", tables, err)
	}
	script("iptables-legacy-save", "exit 3")
	if _, err := h.legacyTables(t.Context()); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("a failed program: %v", err)
	}
	// Where there is none it is not started, as that would load modules.
	for _, none := range []Reader{{Root: t.TempDir()}, fakeProc(t, "\n")} {
		if tables, err := none.legacyTables(t.Context()); tables != nil || err != nil {
			t.Errorf("none: %v, %v", tables, err)
		}
	}
}

// TestConntrackMatch is xt_conntrack's structure, by which iptables' rules ask
// for states through nftables.
func TestConntrackMatch(t *testing.T) {
	info := func(what, inverts, states byte) []byte {
		b := make([]byte, 160)
		b[conntrackMatches], b[conntrackInverts], b[conntrackStates] = what, inverts, states
		return b
	}
	p := packet{state: stateEstablished}
	for _, tt := range []struct {
		what, inverts, states byte
		want                  truth
	}{
		{1, 0, stateEstablished | stateRelated, yes}, {1, 0, stateNew, no}, {1, 1, stateNew, yes}, {1, 1, stateEstablished, no},
		{1 | 64, 0, stateEstablished, maybe}, {1 | 64, 0, stateNew, no}, {64, 0, 0, maybe},
	} {
		for revision := uint32(1); revision <= 3; revision++ {
			if got := xtMatch("conntrack", revision, info(tt.what, tt.inverts, tt.states), p); got != tt.want {
				t.Errorf("%+v, revision %d: %d", tt, revision, got)
			}
		}
	}
	if xtMatch("conntrack", 3, info(1, 0, 2)[:100], p) != maybe || xtMatch("addrtype", 1, nil, p) != maybe || xtMatch("comment", 0, nil, p) != yes {
		t.Error("a short or another match")
	}
}

func TestWithin(t *testing.T) {
	subnet := netip.MustParsePrefix("192.168.83.0/24")
	for text, want := range map[string]truth{
		"192.168.0.0/16": yes, "192.168.83.0/24": yes, "192.168.83.2": maybe, "10.0.0.0/8": no, "0.0.0.0/0": yes, "bad": maybe,
	} {
		if got := within(subnet, text); got != want {
			t.Errorf("%s: %d", text, got)
		}
	}
	if within(netip.Prefix{}, "10.0.0.0/8") != maybe {
		t.Error("any address lies within")
	}
}
