package plan

import (
	"fmt"
	"maps"
	"slices"

	"bield/internal/spec"
)

// Desired is what a host should be.
type Desired struct {
	Host spec.Host
	VMs  []Wanted
}

// Wanted is a VM as it should be.
type Wanted struct {
	spec.VM
	// Run says that it is to run.
	Run bool
	// Keep leaves it running though it has changed.
	Keep bool
	// Image is the digest of the image that its spec asks for.
	Image string
}

// Action is what happens to a VM as a whole.
type Action string

// The actions. Nothing is what a VM gets that needs a restart and may not have
// one.
const (
	Start   Action = "start"
	Restart Action = "restart"
	Take    Action = "remove"
	Update  Action = "update"
	Nothing Action = "nothing"
)

// Plan is what brings a host to what it should be.
type Plan struct {
	// Before are the host's steps that VMs need, After those when none is left.
	Before, After []Step
	// VMs holds the changes in the order of their names.
	VMs []Change
}

// Change is what happens to one VM.
type Change struct {
	VM      string
	Action  Action
	Reasons []string
	// Pending is what would need a restart that the VM's spec forbids.
	Pending []string
	// Stop are the steps that take away, Start those that make or mend.
	Stop, Start []Step
}

// Empty says that there is nothing to do.
func (p Plan) Empty() bool {
	return len(p.Steps()) == 0
}

// Steps lists all steps in an order that works: what is not wanted goes first,
// so that its names and addresses are free.
func (p Plan) Steps() []Step {
	var steps []Step
	for _, c := range p.VMs {
		steps = append(steps, c.Stop...)
	}
	steps = append(steps, p.Before...)
	for _, c := range p.VMs {
		steps = append(steps, c.Start...)
	}
	return append(steps, p.After...)
}

// Diff lists what leads from have to want. The VMs of have that are not in
// want go.
func Diff(want Desired, have spec.Observed) Plan {
	var p Plan
	changes := map[string]Change{}
	runs, stays := false, have.Others
	for _, w := range want.VMs {
		changes[w.Name] = Of(w, want.Host, have.VMs[w.Name])
		runs = runs || w.Run
	}
	for name, vm := range have.VMs {
		if _, wanted := changes[name]; !wanted {
			changes[name] = gone(name, vm)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(changes)) {
		if c := changes[name]; c.Action != "" {
			p.VMs = append(p.VMs, c)
		}
	}
	switch {
	case runs:
		p.Before = HostUp(have)
	case !stays:
		p.After = HostDown(have)
	}
	return p
}

func gone(name string, have spec.ObservedVM) Change {
	if !have.Record {
		return Change{}
	}
	return Change{VM: name, Action: Take, Reasons: []string{"no longer declared"}, Stop: Remove(name, have, "")}
}

// Of says what happens to one VM; its Action is "" when nothing does.
func Of(w Wanted, host spec.Host, have spec.ObservedVM) Change {
	switch {
	case !w.Run && !have.Record:
		return Change{}
	case !w.Run:
		return Change{VM: w.Name, Action: Take, Reasons: []string{"left over"}, Stop: Remove(w.Name, have, "")}
	case !have.Record:
		return Change{VM: w.Name, Action: Start, Reasons: []string{"is to run"}, Start: start(w.VM)}
	}
	live, restart, forced := changed(w, host, have)
	forced = append(forced, lacks(w, have)...)
	if len(forced) > 0 || len(restart) > 0 && w.RestartIfChanged && !w.Keep {
		return Change{VM: w.Name, Action: Restart, Reasons: append(forced, restart...), Stop: Remove(w.Name, have, ""), Start: start(w.VM)}
	}
	c := Change{VM: w.Name, Pending: restart, Reasons: live, Start: mend(w.VM, have)}
	for _, step := range c.Start {
		c.Reasons = append(c.Reasons, step.Reason)
	}
	if len(live) > 0 {
		c.Start = append(c.Start, Step{Kind: UpdateVM, VM: w.Name})
	}
	switch {
	case len(c.Start) > 0:
		c.Action = Update
	case len(restart) > 0:
		c.Action = Nothing
	}
	return c
}

// Anew starts a VM, or restarts it though nothing of it has changed.
func Anew(w Wanted, have spec.ObservedVM) Change {
	c := Change{VM: w.Name, Action: Start, Reasons: []string{"asked for"}, Start: start(w.VM)}
	if have.Record {
		c.Action, c.Stop = Restart, Remove(w.Name, have, "")
	}
	return c
}

// changed compares a VM that runs with what it should be.
func changed(w Wanted, host spec.Host, have spec.ObservedVM) (live, restart, forced []string) {
	if have.Spec == nil || have.Host == nil {
		return nil, nil, nil
	}
	is := *have.Spec
	if w.Hypervisor == spec.HypervisorAuto || w.Hypervisor == have.Hypervisor {
		is.Hypervisor = w.Hypervisor // what it runs on will do
	}
	live, restart = differ(is, w.VM)
	liveHost, restartHost, forced := differHost(*have.Host, host)
	live, restart = append(live, liveHost...), append(restart, restartHost...)
	if w.Image != "" && have.Image != w.Image && len(restart) == 0 {
		restart = append(restart, fmt.Sprintf("image %.12s → %.12s", have.Image, w.Image))
	}
	return live, restart, forced
}

// RestartNeeded lists what a VM that runs gets only by a restart.
func RestartNeeded(w Wanted, host spec.Host, have spec.ObservedVM) []string {
	_, restart, forced := changed(w, host, have)
	return append(forced, restart...)
}

// HostUp lists what the host itself lacks before any VM can run.
func HostUp(have spec.Observed) []Step {
	var steps []Step
	if have.OtherBridge {
		if have.Egress != spec.Absent {
			steps = append(steps, Step{Kind: StopEgress, Reason: "another bridge is declared"})
		}
		steps = append(steps, Step{Kind: RemoveBridge, Reason: "another is declared"})
	}
	if have.Bridge != spec.Present {
		steps = append(steps, Step{Kind: AddBridge})
	}
	if have.Forwarding != spec.Present {
		steps = append(steps, Step{Kind: SetForwarding})
	}
	// It listens on the bridge's address.
	if have.Egress != spec.Present || have.OtherBridge {
		steps = append(steps, Step{Kind: StartEgress})
	}
	if have.CutOff {
		steps = append(steps, Step{Kind: OpenPassage, Reason: "another firewall would cut VMs off"})
	}
	return steps
}

// HostDown lists what goes when no VM is left.
func HostDown(have spec.Observed) []Step {
	var steps []Step
	if have.Firewall != spec.Absent {
		steps = append(steps, Step{Kind: RemoveFirewall})
	}
	if have.Egress != spec.Absent {
		steps = append(steps, Step{Kind: StopEgress})
	}
	if have.Forwarding != spec.Absent {
		steps = append(steps, Step{Kind: RestoreForwarding})
	}
	if have.Bridge != spec.Absent {
		steps = append(steps, Step{Kind: RemoveBridge})
	}
	// The last: a firewall that does not let go of it holds up nothing else.
	if have.Passage != spec.Absent {
		steps = append(steps, Step{Kind: ClosePassage})
	}
	return steps
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

// lacks says which parts of a VM are gone that cannot be given to it while it
// runs. What it was started with counts, and not what its spec says now.
func lacks(w Wanted, have spec.ObservedVM) []string {
	vm := w.VM
	if have.Spec != nil {
		vm = *have.Spec
	}
	var lost []string
	if !have.VMM {
		return []string{"its VMM is gone"}
	}
	if have.Tap != spec.Present {
		lost = append(lost, "its tap is gone")
	}
	for _, tag := range Tags(vm) {
		if !have.Shares[tag] {
			lost = append(lost, fmt.Sprintf("share %s is not served", tag))
		}
	}
	return lost
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
