package plan

import (
	"maps"
	"slices"

	"bield/internal/spec"
)

// Diff lists the steps from have to a host on which exactly the VMs in want
// run. Steps of the host stand before those of the VMs when something is
// added, and behind them when the last VM goes.
func Diff(want []spec.VM, have spec.Observed) []Step {
	wanted := map[string]spec.VM{}
	for _, vm := range want {
		wanted[vm.Name] = vm
	}
	var steps []Step
	for _, name := range slices.Sorted(maps.Keys(have.VMs)) {
		if _, keep := wanted[name]; !keep {
			steps = append(steps, Remove(name, have.VMs[name], "not wanted")...)
		}
	}
	if len(want) > 0 {
		steps = append(steps, HostUp(have)...)
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		steps = append(steps, VM(wanted[name], have.VMs[name])...)
	}
	if len(want) == 0 {
		steps = append(steps, HostDown(have)...)
	}
	return steps
}

// HostUp lists what the host itself lacks before any VM can run.
func HostUp(have spec.Observed) []Step {
	var steps []Step
	if have.Bridge != spec.Present {
		steps = append(steps, Step{Kind: AddBridge})
	}
	if have.Forwarding != spec.Present {
		steps = append(steps, Step{Kind: SetForwarding})
	}
	return steps
}

// HostDown lists what goes when no VM is left.
func HostDown(have spec.Observed) []Step {
	var steps []Step
	if have.Firewall != spec.Absent {
		steps = append(steps, Step{Kind: RemoveFirewall})
	}
	if have.Forwarding != spec.Absent {
		steps = append(steps, Step{Kind: RestoreForwarding})
	}
	if have.Bridge != spec.Absent {
		steps = append(steps, Step{Kind: RemoveBridge})
	}
	return steps
}

// VM lists the steps that bring one VM up. Parts of an earlier run are never
// built upon: they go first.
func VM(want spec.VM, have spec.ObservedVM) []Step {
	if whole(want, have) {
		return mend(want, have)
	}
	var steps []Step
	if have.Record {
		steps = Remove(want.Name, have, "left over")
	}
	return append(steps, start(want)...)
}

// mend lists what a VM that runs lacks and can be given.
func mend(want spec.VM, have spec.ObservedVM) []Step {
	var steps []Step
	if have.Firewall != spec.Present {
		steps = append(steps, Step{Kind: SetFirewall, VM: want.Name, Reason: "its rules are not those that bield made"})
	}
	if !have.Ready {
		steps = append(steps, Step{Kind: AwaitReady, VM: want.Name, Reason: "not yet seen usable"})
	}
	return steps
}

// whole says that every part of a running VM is there that cannot be given to
// it while it runs.
func whole(want spec.VM, have spec.ObservedVM) bool {
	if !have.Record || !have.VMM || have.Tap != spec.Present {
		return false
	}
	for _, tag := range Tags(want) {
		if !have.Shares[tag] {
			return false
		}
	}
	return true
}

func start(want spec.VM) []Step {
	kinds := []Kind{MakeImage, MakeKeys, SetFirewall, AddTap}
	steps := make([]Step, 0, len(kinds)+len(want.Shares)+4)
	for _, kind := range kinds {
		steps = append(steps, Step{Kind: kind, VM: want.Name})
	}
	for _, tag := range Tags(want) {
		steps = append(steps, Step{Kind: StartShare, VM: want.Name, Share: tag})
	}
	return append(steps, Step{Kind: StartVMM, VM: want.Name}, Step{Kind: AwaitReady, VM: want.Name})
}

// Tags lists every share of a VM, bield's own among them, in the order in
// which they are started.
func Tags(vm spec.VM) []string {
	var tags []string
	if !vm.StoreOnDisk {
		tags = append(tags, spec.RootTag)
	}
	tags = append(tags, spec.HostKeysTag)
	for _, share := range vm.Shares {
		tags = append(tags, share.Tag)
	}
	return tags
}

// Remove lists the steps that take away all that is left of one VM. The VMM
// goes first, since it uses the rest.
func Remove(name string, have spec.ObservedVM, reason string) []Step {
	var steps []Step
	add := func(kind Kind, share string) {
		steps = append(steps, Step{Kind: kind, VM: name, Share: share, Reason: reason})
	}
	if have.VMM {
		add(StopVMM, "")
	}
	for _, tag := range slices.Sorted(maps.Keys(have.Shares)) {
		add(StopShare, tag)
	}
	if have.Tap != spec.Absent {
		add(RemoveTap, "")
	}
	if have.Firewall != spec.Absent {
		add(ClearFirewall, "")
	}
	if have.Record {
		add(Forget, "")
	}
	return steps
}
