package firewall

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"bield/internal/spec"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGolden compares what `nft` reads back from the kernel.
func TestGolden(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		skip(t, "needs nft, from the package nftables")
	}
	if *update {
		t.Setenv("BIELD_TEST_UPDATE", "1")
	}
	if !inNamespace(t) {
		return
	}
	named := testConfig()
	named.ExternalInterface = "eth0"
	empty := testConfig()
	empty.VMs = nil
	for name, c := range map[string]Config{"any": testConfig(), "named": named, "empty": empty, "modes": modesConfig(t), "trusting": trustingConfig()} {
		t.Run(name, func(t *testing.T) {
			must(t, Set(t.Context(), c))
			got, err := exec.Command("nft", "--stateless", "list", "ruleset").Output()
			must(t, err)
			file := filepath.Join("testdata", name+".nft")
			if os.Getenv("BIELD_TEST_UPDATE") != "" {
				must(t, os.WriteFile(file, got, 0o644))
			}
			want, err := os.ReadFile(file)
			must(t, err)
			wantState(t, c, true)
			if other := otherNft(t); other != "" {
				t.Logf("the text of %s is nft %s's, here is %s: only what the kernel holds was compared", file, goldenNft, other)
				return
			}
			if !bytes.Equal(got, want) {
				t.Errorf("rules differ from %s (`go test -run TestGolden -update` writes it):\n%s", file, got)
			}
		})
	}
}

func target(t *testing.T, text string) spec.Target {
	t.Helper()
	parsed, err := spec.ParseTarget(text)
	must(t, err)
	return parsed
}

// modesConfig has a guest of each mode, with networks that overlap and repeat.
func modesConfig(t *testing.T) Config {
	c := testConfig()
	c.HostPorts = []spec.HostPort{{Protocol: "tcp", Port: 8080}, {Protocol: "udp", Port: 5353}}
	c.Ports = Ports{DNS: 5300, DNSTCP: 5301, Proxy: 5302}
	c.Nameservers = []netip.Addr{netip.MustParseAddr("10.0.0.53")}
	c.VMs[1].Egress = spec.Egress{Mode: spec.EgressPublic, Allow: []spec.Target{
		target(t, "10.0.0.0/8"), target(t, "10.0.0.5"), target(t, "10.0.0.5:443"), target(t, "10.0.0.0/24:443"), target(t, "10.0.0.0/24:443"), target(t, "10.0.0.5:22")}}
	c.VMs = append(c.VMs,
		VM{Tap: "mv3", MAC: "02:00:00:01:00:03", IP: netip.MustParseAddr("192.168.83.13"), Egress: spec.Egress{Mode: spec.EgressAllowlist, Names: []spec.Target{{Name: "a.example"}}}},
		VM{Tap: "mv4", MAC: "02:00:00:01:00:04", IP: netip.MustParseAddr("192.168.83.14"), Egress: spec.Egress{Mode: spec.EgressNone, Allow: []spec.Target{target(t, "172.16.0.1")}}})
	return c
}

func trustingConfig() Config {
	c := testConfig()
	c.TrustBridge, c.GuestToGuest = true, true
	c.Ports = Ports{DNS: 5300, DNSTCP: 5301, Proxy: 5302}
	c.VMs[0].Egress = spec.Egress{Allow: []spec.Target{{Name: "git.corp.example"}}}
	return c
}

// goldenNft is the nft that the goldens were written by; each version prints a
// little differently.
const goldenNft = "v1.0.6"

// otherNft is this host's version, where it is not that.
func otherNft(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("nft", "--version").Output() // nftables v1.0.6 (Lester Gooch #5)
	must(t, err)
	words := strings.Fields(string(out))
	if len(words) > 1 && words[1] == goldenNft {
		return ""
	}
	return string(out)
}

func wantState(t *testing.T, c Config, matches bool) {
	t.Helper()
	state, err := Observe(t.Context(), c.Owner)
	must(t, err)
	if !state.Present || state.Partial || len(state.Foreign) > 0 {
		t.Errorf("state %+v", state)
	}
	if state.Matches(c) != matches {
		t.Errorf("Matches is %v, want %v", !matches, matches)
	}
}

func wantNoTables(t *testing.T) {
	t.Helper()
	conn, err := connect(t.Context())
	must(t, err)
	tables, err := conn.ListTables()
	must(t, err)
	for _, table := range tables {
		t.Errorf("table %s %s is left", family(table.Family), table.Name)
	}
}

func TestSetObserveRemove(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := testConfig()
	state, err := Observe(t.Context(), c.Owner)
	must(t, err)
	if state.Present || state.Partial || state.Matches(c) {
		t.Errorf("state of an empty namespace: %+v", state)
	}
	must(t, Remove(t.Context(), c.Owner))
	for range 3 {
		must(t, Set(t.Context(), c))
		wantState(t, c, true)
	}
	more := c
	more.ExternalInterface = "eth0"
	wantState(t, more, false)
	slices.Reverse(c.VMs)
	wantState(t, c, true)
	c.VMs = c.VMs[:1]
	wantState(t, c, false)
	must(t, Set(t.Context(), c))
	wantState(t, c, true)
	must(t, Remove(t.Context(), c.Owner))
	wantNoTables(t)
	must(t, Remove(t.Context(), c.Owner))
}

// TestMatches changes what Set made, one thing at a time.
func TestMatches(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := testConfig()
	inet := &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
	bridge := &nftables.Table{Name: tableName, Family: nftables.TableFamilyBridge}
	drop := nftables.ChainPolicyDrop
	for name, change := range map[string]func(*nftables.Conn){
		"chain emptied": func(conn *nftables.Conn) { conn.FlushChain(&nftables.Chain{Table: bridge, Name: chainCheckARP}) },
		"rule added": func(conn *nftables.Conn) {
			conn.InsertRule(&nftables.Rule{Table: inet, Chain: &nftables.Chain{Name: chainTo}, Exprs: accept()})
		},
		"chain added":   func(conn *nftables.Conn) { conn.AddChain(&nftables.Chain{Table: inet, Name: "more"}) },
		"elements gone": func(conn *nftables.Conn) { conn.FlushSet(&nftables.Set{Table: bridge, Name: setTaps}) },
		"policy changed": func(conn *nftables.Conn) {
			conn.AddChain(&nftables.Chain{Table: inet, Name: chainInput, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter, Type: nftables.ChainTypeFilter, Policy: &drop})
		},
	} {
		t.Run(name, func(t *testing.T) {
			must(t, Set(t.Context(), c))
			conn, err := connect(t.Context())
			must(t, err)
			change(conn)
			must(t, conn.Flush())
			wantState(t, c, false)
			must(t, Set(t.Context(), c))
			wantState(t, c, true)
		})
	}
	conn, err := connect(t.Context())
	must(t, err)
	conn.DelTable(bridge)
	must(t, conn.Flush())
	state, err := Observe(t.Context(), c.Owner)
	must(t, err)
	if state.Present || !state.Partial || state.Matches(c) {
		t.Errorf("state with one table gone: %+v", state)
	}
	must(t, Set(t.Context(), c))
	wantState(t, c, true)
}

func TestForeignTables(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := testConfig()
	for _, f := range families() {
		t.Run(family(f), func(t *testing.T) {
			conn, err := connect(t.Context())
			must(t, err)
			theirs := conn.AddTable(&nftables.Table{Name: tableName, Family: f})
			conn.AddChain(&nftables.Chain{Table: theirs, Name: "theirs"})
			must(t, conn.Flush())
			name := family(f) + " " + tableName

			wantError(t, Set(t.Context(), c), name, "nft delete table "+name)
			must(t, Remove(t.Context(), c.Owner))
			state, err := Observe(t.Context(), c.Owner)
			must(t, err)
			if state.Present || state.Partial || !slices.Equal(state.Foreign, []string{name}) {
				t.Errorf("state %+v", state)
			}
			tables, err := conn.ListTables()
			must(t, err)
			if len(tables) != 1 || tables[0].Family != f {
				t.Errorf("tables %+v", tables)
			}
			chains, err := conn.ListChains()
			must(t, err)
			if len(chains) != 1 || chains[0].Name != "theirs" {
				t.Errorf("chains %+v", chains)
			}
			conn.DelTable(theirs)
			must(t, conn.Flush())
		})
	}
	other := c
	other.Owner = "bield /run/other"
	must(t, Set(t.Context(), other))
	wantError(t, Set(t.Context(), c), "inet bield", "bridge bield")
	must(t, Remove(t.Context(), c.Owner))
	wantState(t, other, true)
}

// TestOtherTables shows that tables of other names and families stay.
func TestOtherTables(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	conn, err := connect(t.Context())
	must(t, err)
	conn.AddTable(&nftables.Table{Name: "docker", Family: nftables.TableFamilyINet})
	conn.AddTable(&nftables.Table{Name: tableName, Family: nftables.TableFamilyIPv4})
	must(t, conn.Flush())
	c := testConfig()
	must(t, Set(t.Context(), c))
	must(t, Remove(t.Context(), c.Owner))
	tables, err := conn.ListTables()
	must(t, err)
	if len(tables) != 2 {
		t.Errorf("%d tables left, want the 2 others", len(tables))
	}
}

func TestManyVMs(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := testConfig()
	c.Subnet, c.Gateway, c.VMs = netip.MustParsePrefix("10.0.0.0/16"), netip.MustParseAddr("10.0.0.1"), nil
	for i := range 3000 {
		ip := binary.BigEndian.AppendUint32(nil, 10<<24+2+uint32(i))
		addr, _ := netip.AddrFromSlice(ip)
		c.VMs = append(c.VMs, VM{Tap: fmt.Sprintf("mv%011x", i), MAC: fmt.Sprintf("02:00:00:01:%02x:%02x", i>>8, i&255), IP: addr})
	}
	must(t, Set(t.Context(), c))
	wantState(t, c, true)
	must(t, Set(t.Context(), c))
	wantState(t, c, true)
}

func TestUnprivileged(t *testing.T) {
	if os.Getenv("BIELD_TEST_NOBODY") == "" {
		if os.Geteuid() != 0 {
			skip(t, "needs root to become another user in a namespace of its own")
		}
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestUnprivileged$", "-test.v", "-test.timeout=60s")
		cmd.Env = append(os.Environ(), "BIELD_TEST_NOBODY=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS")) {
			t.Fatalf("as nobody: %v\n%s", err, out)
		}
		return
	}
	c := testConfig()
	wantError(t, Set(t.Context(), c), "root", "CAP_NET_ADMIN")
	wantError(t, Remove(t.Context(), c.Owner), "root", "CAP_NET_ADMIN")
	_, err := Observe(t.Context(), c.Owner)
	wantError(t, err, "root", "CAP_NET_ADMIN")
}

// TestFamilyMissing takes a family that no kernel has for the bridge's.
func TestFamilyMissing(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	tables, err := build(testConfig())
	must(t, err)
	cause := errors.New("the batch")
	if got := advise(t.Context(), tables, cause); got != cause { //nolint:errorlint // the same error, with nothing around it
		t.Errorf("with all families there: %v", got)
	}
	tables[1].family = unix.NFPROTO_DECNET
	wantError(t, advise(t.Context(), tables, cause), "family number 12", "modprobe", "CONFIG_NF_TABLES_BRIDGE")
	wantNoTables(t)
}

func TestEndedContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Set(ctx, testConfig()); !errors.Is(err, context.Canceled) {
		t.Errorf("Set: %v", err)
	}
	if err := Remove(ctx, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("Remove: %v", err)
	}
}

func TestCheckConfig(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no owner":            func(c *Config) { c.Owner = "" },
		"no bridge":           func(c *Config) { c.Bridge = "" },
		"long bridge":         func(c *Config) { c.Bridge = strings.Repeat("x", 16) },
		"bridge is external":  func(c *Config) { c.ExternalInterface = c.Bridge },
		"subnet not masked":   func(c *Config) { c.Subnet = netip.MustParsePrefix("192.168.83.1/24") },
		"IPv6 subnet":         func(c *Config) { c.Subnet = netip.MustParsePrefix("fd00::/64") },
		"gateway elsewhere":   func(c *Config) { c.Gateway = netip.MustParseAddr("10.0.0.1") },
		"no subnet":           func(c *Config) { c.Subnet = netip.Prefix{} },
		"VM is the gateway":   func(c *Config) { c.VMs[0].IP = c.Gateway },
		"VM elsewhere":        func(c *Config) { c.VMs[0].IP = netip.MustParseAddr("10.0.0.2") },
		"VM without address":  func(c *Config) { c.VMs[0].IP = netip.Addr{} },
		"VM without MAC":      func(c *Config) { c.VMs[0].MAC = "" },
		"multicast MAC":       func(c *Config) { c.VMs[0].MAC = "01:00:00:01:00:01" },
		"eight-byte MAC":      func(c *Config) { c.VMs[0].MAC = "02:00:00:01:00:01:00:01" },
		"tap is the bridge":   func(c *Config) { c.VMs[0].Tap = c.Bridge },
		"tap without a name":  func(c *Config) { c.VMs[0].Tap = "" },
		"tap twice":           func(c *Config) { c.VMs[0].Tap = c.VMs[1].Tap },
		"MAC twice":           func(c *Config) { c.VMs[0].MAC = strings.ToUpper(c.VMs[1].MAC) },
		"address twice":       func(c *Config) { c.VMs[0].IP = c.VMs[1].IP },
		"mapped IPv4 address": func(c *Config) { c.VMs[0].IP = netip.AddrFrom16(c.VMs[0].IP.As16()) },
	} {
		t.Run(name, func(t *testing.T) {
			c := testConfig()
			change(&c)
			if _, err := build(c); err == nil {
				t.Errorf("%+v was accepted", c)
			}
		})
	}
	_, err := build(testConfig())
	must(t, err)
}

// TestTextIgnoresCounters keeps a busy table from looking altered.
func TestTextIgnoresCounters(t *testing.T) {
	quiet := chain{rules: []rule{{exprs: []expr.Any{&expr.Counter{}}}}}
	busy := chain{rules: []rule{{exprs: []expr.Any{&expr.Counter{Packets: 7, Bytes: 700}}}}}
	if quiet.text() != busy.text() {
		t.Errorf("%q differs from %q", quiet.text(), busy.text())
	}
}
