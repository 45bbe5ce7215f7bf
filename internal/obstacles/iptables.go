package obstacles

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// legacyTables reads the tables of the legacy iptables, which nftables does not
// see. Without any the program is not started, since it would load modules.
func (r Reader) legacyTables(ctx context.Context) ([]table, error) {
	names, err := os.ReadFile(filepath.Join(cmp.Or(r.Root, "/"), "proc/net/ip_tables_names"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(bytes.Fields(names)) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the tables of the legacy iptables: %w", err)
	}
	for _, program := range []string{"iptables-legacy", "iptables"} {
		save, err := exec.LookPath(program + "-save")
		if err != nil || program == "iptables" && !legacy(ctx, save) {
			continue
		}
		out, err := exec.CommandContext(ctx, save).Output()
		if err != nil {
			return nil, fmt.Errorf("list the rules of the legacy iptables: %s: %w", save, err)
		}
		return parseSave(out, program), nil
	}
	return nil, ErrNoSave
}

func legacy(ctx context.Context, program string) bool {
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	return err == nil && bytes.Contains(out, []byte("legacy"))
}

// parseSave reads what iptables-save(8) prints. command is what changes it.
func parseSave(text []byte, command string) []table {
	var tables []table
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		name, isTable := strings.CutPrefix(line, "*")
		switch {
		case isTable:
			tables = append(tables, table{family: "ip", name: name, command: command, chains: map[string]*chain{}})
		case len(tables) == 0:
		case strings.HasPrefix(line, ":"):
			tables[len(tables)-1].addChain(strings.Fields(line[1:]))
		case strings.HasPrefix(line, "-A "):
			tables[len(tables)-1].addRule(words(line))
		}
	}
	return slices.DeleteFunc(tables, func(t table) bool { return t.name == "nat" })
}

// addChain reads "FORWARD DROP [0:0]"; a policy of "-" is a user's own chain.
func (t table) addChain(f []string) {
	if len(f) < 2 {
		return
	}
	c := &chain{name: f[0], drops: f[1] == "DROP"}
	if f[1] != "-" {
		c.hook = strings.ToLower(f[0])
	}
	t.chains[c.name] = c
}

// words splits a line at spaces outside of double quotes.
func words(line string) []string {
	var all []string
	var word strings.Builder
	quoted, escaped := false, false
	for _, r := range line {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\':
			escaped = true
		case r == '"':
			quoted = !quoted
		case r == ' ' && !quoted:
			if word.Len() > 0 {
				all = append(all, word.String())
			}
			word.Reset()
		default:
			word.WriteRune(r)
		}
	}
	return append(all, word.String())
}

// addRule reads "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT".
func (t table) addRule(f []string) {
	if len(f) > 1 && t.chains[f[1]] != nil {
		c := t.chains[f[1]]
		c.rules = append(c.rules, t.savedRule(f[2:]).judge)
	}
}

// savedRule is a rule in the words of iptables-save.
type savedRule struct {
	conditions []func(packet) truth
	does       outcome
}

func (r savedRule) judge(p packet) outcome {
	o := r.does
	o.match = yes
	for _, holds := range r.conditions {
		o.match = min(o.match, holds(p))
	}
	return o
}

func (t table) savedRule(f []string) savedRule {
	var r savedRule
	inverted := false
	for i := 0; i < len(f); i++ {
		value := ""
		if i+1 < len(f) {
			value = f[i+1]
		}
		switch f[i] {
		case "!":
			inverted = true
			continue
		case "-j", "-g":
			r.does = t.target(value, f[i] == "-g")
			return r // what follows are options of the target
		case "-m", "--comment":
			i++
		default:
			r.conditions = append(r.conditions, saveCondition(f[i], value, inverted))
			if !strings.HasPrefix(value, "-") && value != "!" {
				i++
			}
		}
		inverted = false
	}
	return r
}

func (t table) target(name string, isGoto bool) outcome {
	switch {
	case isGoto:
		return outcome{verb: goTo, chain: name}
	case t.chains[name] != nil:
		return outcome{verb: jump, chain: name}
	}
	o, _ := xtTarget(name)
	return o
}

// saveCondition is one option of a rule. One that is not known may hold.
func saveCondition(option, value string, inverted bool) func(packet) truth {
	not := func(t truth) truth {
		if inverted {
			return yes - t
		}
		return t
	}
	switch option {
	case "-i":
		return func(p packet) truth { return not(p.in.is(value)) }
	case "-o":
		return func(p packet) truth { return not(p.out.is(value)) }
	case "-s":
		return func(p packet) truth { return not(within(p.source, value)) }
	case "-d":
		return func(p packet) truth { return not(within(p.destination, value)) }
	case "-p":
		return func(p packet) truth { return not(asTruth(protocols(value, p.number()))) }
	case "--dport", "--destination-port", "--dports", "--destination-ports":
		return func(p packet) truth { return not(destined(p, value)) }
	case "--dst-type":
		types := map[string]uint16{"LOCAL": typeLocal, "BROADCAST": 1 << 3, "MULTICAST": 1 << 5}[value]
		return func(p packet) truth {
			if types == 0 {
				return maybe
			}
			return not(p.destined(types))
		}
	case "--ctstate", "--state":
		return func(p packet) truth {
			dnat := p.redirected && slices.Contains(strings.Split(value, ","), "DNAT")
			return not(asTruth(dnat || states(value)&p.state != 0))
		}
	}
	return func(packet) truth { return maybe }
}

// protocols says whether a value of -p is the protocol.
func protocols(value string, p byte) bool {
	name := map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp"}[p]
	return slices.Contains([]string{name, strconv.Itoa(int(p)), "all", "0"}, value)
}

// destined holds a packet's port against "53", "1000:2000" or a list of these.
func destined(p packet, list string) truth {
	if p.port == 0 {
		return maybe
	}
	for one := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(one, ":")
		if !isRange {
			last = first
		}
		from, err := strconv.ParseUint(cmp.Or(first, "0"), 10, 16)
		to, err2 := strconv.ParseUint(cmp.Or(last, "65535"), 10, 16)
		if err != nil || err2 != nil {
			return maybe
		}
		if uint64(p.port) >= from && uint64(p.port) <= to {
			return yes
		}
	}
	return no
}

// is holds an interface against a name that may end in "+", any rest. A packet
// without one has the empty name.
func (e end) is(name string) truth {
	start, open := strings.CutSuffix(name, "+")
	switch {
	case !e.known && open && start == "":
		return yes
	case !e.known:
		return maybe
	case open:
		return asTruth(strings.HasPrefix(e.name, start))
	}
	return asTruth(e.name == name)
}

func within(p netip.Prefix, text string) truth {
	if !strings.Contains(text, "/") {
		text += "/32"
	}
	want, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return maybe
	case want.Bits() == 0:
		return yes
	case !p.IsValid():
		return maybe
	case !p.Overlaps(want):
		return no
	case want.Bits() <= p.Bits():
		return yes
	}
	return maybe
}

func states(list string) uint32 {
	var bits uint32
	for name := range strings.SplitSeq(list, ",") {
		bits |= map[string]uint32{"INVALID": stateInvalid, "ESTABLISHED": stateEstablished, "RELATED": stateRelated, "NEW": stateNew, "UNTRACKED": stateUntracked}[name]
	}
	return bits
}
