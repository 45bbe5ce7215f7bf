package faults

import (
	"context"
	"os"
	"strings"
	"testing"

	"bield/internal/spec"
	"bield/internal/state"
	"bield/test/host"
)

// TestReboot takes everything away that a reboot takes, and keeps the state
// folder: what starts then starts clean, and guests keep their host keys.
func TestReboot(t *testing.T) {
	host.Require(t)
	for name, file := range map[string]string{"up again": "", "starts by itself": restarting} {
		for where, keeps := range map[string]bool{"run directory gone": false, "run directory kept": true} {
			t.Run(name+", "+where, func(t *testing.T) {
				t.Parallel()
				reboot(t, file, keeps)
			})
		}
	}
}

func reboot(t *testing.T, file string, keeps bool) {
	h := machine(t, file)
	defer func() { h.End(t) }()
	declared, err := h.Spec(context.Background())
	must(t, err)
	must(t, h.AtHome())
	must(t, h.StartDaemon(nil))
	must(t, upOf()(h))
	key := hostKey(t, declared, "one")
	must(t, h.Reboot(keeps))
	if keeps {
		otherBoot(t, h, "one", "two")
	}
	must(t, readable(h))
	must(t, h.StartDaemon(nil))
	if file == "" {
		must(t, settled(h, declared, nil))
		must(t, upOf("one")(h))
		must(t, soon(func() error { return settled(h, declared, []string{"one"}) }))
	} else {
		must(t, soon(func() error { return settled(h, declared, autostarts(declared, keeps)) }))
	}
	must(t, upOf()(h))
	must(t, soon(func() error { return settled(h, declared, declared.Names()) }))
	if now := hostKey(t, declared, "one"); now != key {
		t.Errorf("the host key was %s and is %s", key, now)
	}
	must(t, downOf()(h))
	must(t, settled(h, declared, nil))
}

// autostarts are the VMs that run without being asked: after a reboot those with
// autostart; where the run directory was kept, so was what was asked for.
func autostarts(declared spec.Host, keeps bool) []string {
	var names []string
	for _, vm := range declared.VMs {
		if vm.Autostart || keeps {
			names = append(names, vm.Name)
		}
	}
	return names
}

func hostKey(t *testing.T, declared spec.Host, vm string) string {
	t.Helper()
	data, err := os.ReadFile(state.Folder{Dir: declared.StateDir}.HostKeys(vm) + "/" + spec.HostKeyFile + ".pub")
	must(t, err)
	return string(data)
}

// otherBoot makes records those of another boot of the machine.
func otherBoot(t *testing.T, h *host.Host, vms ...string) {
	t.Helper()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	must(t, err)
	for _, vm := range vms {
		data, err := os.ReadFile(h.Run.Record(vm))
		must(t, err)
		text := strings.ReplaceAll(string(data), strings.TrimSpace(string(boot)), "11111111-2222-3333-4444-555555555555")
		must(t, os.WriteFile(h.Run.Record(vm), []byte(text), 0o600))
	}
}
