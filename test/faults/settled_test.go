package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"bield/internal/firewall"
	"bield/internal/network"
	"bield/internal/process"
	"bield/internal/reconcile"
	"bield/internal/spec"
	"bield/internal/state"
	"bield/test/host"
)

// settled says what is not as it must be when exactly the VMs in want, in the
// order of their names, run on the machine: too little, or too much.
func settled(h *host.Host, declared spec.Host, want []string) error {
	if len(want) == 0 {
		if left := h.Leftovers(); len(left) > 0 {
			return errors.New("left: " + strings.Join(left, "; "))
		}
		return running(h, want)
	}
	return errors.Join(running(h, want), recorded(h, declared, want), linked(h, declared, want), filtered(h, declared, want),
		complain("temporary", h.Temporary()), complain("mounted", h.Mounts()))
}

func complain(what string, left []string) error {
	if len(left) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %s", what, strings.Join(left, "; "))
}

// differ compares two sets of names.
func differ(what string, have, want []string) error {
	slices.Sort(have)
	want = slices.Sorted(slices.Values(want))
	if slices.Equal(have, want) {
		return nil
	}
	return fmt.Errorf("%s: %q, want %q", what, have, want)
}

// running asks the daemon which VMs run.
func running(h *host.Host, want []string) error {
	reply, err := h.Client.VMs(context.Background())
	var have []string
	for _, vm := range reply.VMs {
		switch vm.State {
		case spec.StateRunning:
			have = append(have, vm.Name)
		case spec.StateDown, spec.StateFailed:
		default:
			err = errors.Join(err, fmt.Errorf("%s is %s", vm.Name, vm.State))
		}
	}
	return errors.Join(err, differ("running", have, want))
}

// recorded holds the records to be those of the VMs, and the machine to run what
// they name and nothing else.
func recorded(h *host.Host, declared spec.Host, want []string) error {
	var err error
	ids := map[int]bool{}
	for _, name := range want {
		var r reconcile.Record
		err = errors.Join(err, state.Read(h.Run.Record(name), &r))
		if vm, _ := declared.VM(name); text(r.VM) != text(vm) {
			err = errors.Join(err, fmt.Errorf("%s runs as %s and is declared as %s", name, text(r.VM), text(vm)))
		}
		all := []*process.ID{r.VMM}
		for _, s := range r.Shares {
			all = append(all, s.Process)
		}
		for _, id := range all {
			if id == nil {
				err = errors.Join(err, fmt.Errorf("%s: a process is not in the record", name))
				continue
			}
			ids[id.PID] = true
		}
	}
	if len(want) > 0 {
		host, readErr := hostRecord(h)
		if err = errors.Join(err, readErr); host.Egress != nil && host.Egress.Process != nil {
			ids[host.Egress.Process.PID] = true
		} else {
			err = errors.Join(err, errors.New("no egress process is in the record"))
		}
	}
	records, readErr := os.ReadDir(h.Run.Records())
	dirs, dirErr := os.ReadDir(filepath.Dir(h.Run.VM("x")))
	return errors.Join(err, readErr, dirErr, processes(h, ids),
		differ("records", names(records), want), differ("run directories", names(dirs), want))
}

// hostRecord is the note of what was changed on the machine.
func hostRecord(h *host.Host) (reconcile.HostRecord, error) {
	var r reconcile.HostRecord
	return r, state.Read(h.Run.HostRecord(), &r)
}

func text(v any) string {
	data, _ := json.Marshal(v)
	return string(data)
}

func names(entries []os.DirEntry) []string {
	var all []string
	for _, e := range entries {
		all = append(all, strings.TrimSuffix(e.Name(), ".json"))
	}
	return all
}

// processes holds the machine to run the daemon, what records name, and their
// children.
func processes(h *host.Host, recorded map[int]bool) error {
	daemon, err := h.DaemonPID()
	known := map[int]bool{daemon: true}
	there := map[int]bool{}
	for _, p := range h.Processes() {
		there[p.PID] = true
		if !known[p.PID] && !recorded[p.PID] && !recorded[p.Parent] {
			err = errors.Join(err, fmt.Errorf("process %d %s", p.PID, p.Command))
		}
	}
	for pid := range recorded {
		if !there[pid] {
			err = errors.Join(err, fmt.Errorf("process %d of a record is gone", pid))
		}
	}
	return err
}

// linked holds the links to be the bridge and one tap a VM on it.
func linked(h *host.Host, declared spec.Host, want []string) error {
	links, err := network.Observe(h.Owner())
	var taps, wanted []string
	for _, tap := range links.Taps {
		if tap.Bridge != declared.Bridge || !tap.Up || !tap.Carrier || !tap.Isolated {
			err = errors.Join(err, fmt.Errorf("tap %+v", tap))
		}
		taps = append(taps, "link "+tap.Name+": tuntap")
	}
	for _, name := range want {
		vm, _ := declared.VM(name)
		wanted = append(wanted, "link "+vm.Tap()+": tuntap")
	}
	if len(links.Bridges) != 1 {
		err = errors.Join(err, fmt.Errorf("bridges: %+v", links.Bridges))
	}
	changes := append(wanted, "link "+declared.Bridge+": bridge", "ip_forward: 1",
		"table bield of family 1: there", "table bield of family 7: there") // inet, bridge
	return errors.Join(err, differ("taps", taps, wanted), differ("changes", h.Changes(), changes))
}

// filtered holds the rules to be those of the VMs.
func filtered(h *host.Host, declared spec.Host, want []string) error {
	config := firewall.Config{
		Owner: h.Owner(), Bridge: declared.Bridge, Gateway: declared.Gateway(), Subnet: declared.Subnet,
		ExternalInterface: declared.ExternalInterface, Nameservers: declared.Nameservers,
		TrustBridge: declared.TrustBridge, HostPorts: declared.HostPorts, GuestToGuest: declared.GuestToGuest,
	}
	if len(want) > 0 {
		record, err := hostRecord(h)
		if err != nil || record.Egress == nil {
			return errors.Join(err, errors.New("no egress process is in the record"))
		}
		config.Ports = record.Egress.Ports
	}
	for _, name := range want {
		vm, _ := declared.VM(name)
		config.VMs = append(config.VMs, firewall.VM{Tap: vm.Tap(), MAC: vm.MAC, IP: vm.IP, Egress: vm.Egress})
	}
	rules, err := firewall.Observe(context.Background(), h.Owner())
	if err == nil && !rules.Matches(config) {
		err = fmt.Errorf("the rules are not those of %q", want)
	}
	return err
}

// readable holds every file of the daemon's to be whole.
func readable(h *host.Host) error {
	var err error
	for _, dir := range []string{h.Run.Dir, filepath.Join(h.Work, "state")} {
		err = errors.Join(err, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) || err == nil && d.IsDir() {
				return nil
			}
			if err != nil {
				return err
			}
			if !d.Type().IsRegular() {
				return nil
			}
			data, err := os.ReadFile(path)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil:
				return err
			case strings.HasSuffix(path, ".json") && !json.Valid(data):
				return fmt.Errorf("%s is no JSON: %q", path, data)
			}
			return nil
		}))
	}
	return err
}
