package spec

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"
)

// hostileHosts are as large as bieldd reads them, some megabytes, and break as
// many rules as they can.
func hostileHosts() map[string]Host {
	many := func(n int, vm func(i int) VM) Host {
		h := goodHost()
		h.Subnet = netip.MustParsePrefix("10.0.0.0/8")
		h.VMs = make([]VM, n)
		for i := range h.VMs {
			h.VMs[i] = vm(i)
		}
		return h
	}
	empty := func(int) VM { return VM{} }
	alike := func(i int) VM { return goodVM("vm"+strconv.Itoa(i), "10.0.0.2") }
	sameMAC := func(i int) VM {
		v := goodVM("vm"+strconv.Itoa(i), "10.0.1.0")
		v.MAC = "02:00:00:00:00:01"
		return v
	}
	busy := func(i int) VM {
		v := alike(i)
		v.Shares = make([]Share, MaxShares)
		v.User.AuthorizedKeys = make([]string, maxKeys)
		v.Image.Packages = make([]string, maxPackages)
		return v
	}
	over := func(i int) VM {
		v := alike(i)
		v.Shares = make([]Share, 1000)
		v.User.AuthorizedKeys = make([]string, 1000)
		v.Image.Packages = make([]string, maxPackages+1)
		return v
	}
	wordy := func(i int) VM {
		v := alike(i)
		v.Hypervisor = HypervisorKind(strings.Repeat("x", 2<<10))
		return v
	}
	longName := goodHost()
	longName.VMs = make([]VM, 1)
	longName.VMs[0].Name = strings.Repeat("n", 2<<20)
	longState := many(MaxVMs, func(i int) VM {
		v := alike(i)
		for range MaxShares - 3 {
			v.Shares = append(v.Shares, Share{Source: "/a", MountPoint: "/b", Tag: "c"})
		}
		return v
	})
	longState.StateDir = "/a/" + strings.Repeat("s", 1<<20)
	servers := goodHost()
	servers.Nameservers = make([]netip.Addr, 100_000)
	return map[string]Host{
		"168,000 empty VMs": many(168_000, empty), "empty VMs": many(MaxVMs, empty),
		"one IP": many(MaxVMs, alike), "one MAC": many(MaxVMs, sameMAC),
		"lists at their limits": many(MaxVMs, busy), "lists beyond them": many(MaxVMs, over),
		"long words": many(MaxVMs, wordy), "long name": longName, "long state folder": longState, "name servers": servers,
	}
}

// TestCheckIsBounded: whoever may ask bieldd for a check must not keep it busy,
// nor make it answer more than it was sent.
func TestCheckIsBounded(t *testing.T) {
	for name, h := range hostileHosts() {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			problems := Check(h)
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("took %s", took)
			}
			text := 0
			for _, p := range problems {
				text += len(p.String())
			}
			if len(problems) == 0 || len(problems) > MaxProblems+1 || text > 5<<20 {
				t.Errorf("%d problems of %d bytes", len(problems), text)
			}
		})
	}
}

func TestCheckCountsWhatItLeavesOut(t *testing.T) {
	h := goodHost()
	h.VMs = h.VMs[:1]
	h.VMs[0].Image.Packages = make([]string, MaxProblems)
	if problems := Check(h); len(problems) != MaxProblems || strings.Contains(problems[MaxProblems-1].Message, "more") {
		t.Errorf("%d problems, the last %v", len(problems), problems[len(problems)-1])
	}
	h.VMs[0].Image.Packages = make([]string, MaxProblems+34)
	problems := Check(h)
	if len(problems) != MaxProblems+1 || !hasProblem(problems, "vms", "and 34 problems more") {
		t.Errorf("%d problems, the last %v", len(problems), problems[len(problems)-1])
	}
}

func TestCheckTakesManyVMs(t *testing.T) {
	h := goodHost()
	h.Subnet, h.VMs = netip.MustParsePrefix("10.0.0.0/8"), nil
	for i := range MaxVMs {
		v := goodVM("vm"+strconv.Itoa(i), fmt.Sprintf("10.0.%d.%d", 1+i/256, i%256))
		v.MAC = fmt.Sprintf("02:00:00:02:%02x:%02x", i/256, i%256)
		h.VMs = append(h.VMs, v)
	}
	for _, p := range Check(h) {
		t.Error(p)
	}
	h.VMs = append(h.VMs, goodVM("late", "10.1.0.1"))
	if problems := Check(h); len(problems) != 1 || !hasProblem(problems, "vms", "1025 VMs are too many — keep to 1024") {
		t.Errorf("got %v", problems)
	}
}

// TestSuggestionsAreFree: of an address and a MAC that are taken twice.
func TestSuggestionsAreFree(t *testing.T) {
	h := goodHost()
	h.VMs[1].IP, h.VMs[1].MAC = h.VMs[0].IP, h.VMs[0].MAC
	problems := Check(h)
	if !hasProblem(problems, "vms.claude-home.ip", "192.168.83.3 is free") ||
		!hasProblem(problems, "vms.claude-home.mac", "for example "+DerivedMAC("claude-home-1")) {
		t.Errorf("got %v", problems)
	}
	h.VMs = append(h.VMs, goodVM("b", "192.168.83.3"))
	h.VMs[2].MAC = DerivedMAC("claude-home-1")
	problems = Check(h)
	if !hasProblem(problems, "vms.claude-home.ip", "192.168.83.4 is free") ||
		!hasProblem(problems, "vms.claude-home.mac", "for example "+DerivedMAC("claude-home-2")) {
		t.Errorf("got %v", problems)
	}
}
