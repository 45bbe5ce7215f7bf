package reconcile

import (
	"context"
	"fmt"

	"bield/internal/cgroup"
	"bield/internal/plan"
	"bield/internal/spec"
)

// nameGroup says where the VM's control group goes, for its record; nowhere on a
// host that has none to use, where VMs run without.
func (j *job) nameGroup() cgroup.Group {
	group, err := j.e.groups.Of(j.vm.Name)
	if err != nil {
		j.e.Log.Warn("the VM runs without limits of memory, processes and processors", "vm", j.vm.Name, "reason", err)
		return nil
	}
	return group
}

// makeGroup makes the group that the record names.
func (j *job) makeGroup(ctx context.Context, r Record) error {
	if len(r.Group) == 0 {
		return nil
	}
	err := j.e.groups.Make(ctx, r.Group, groupLimits(r))
	if err == nil {
		return nil
	}
	j.e.Log.Warn("the VM runs without limits of memory, processes and processors", "vm", j.vm.Name, "reason", err)
	return j.change(func(r *Record) { r.Group = nil })
}

func groupLimits(r Record) cgroup.Limits {
	return cgroup.LimitsOf(cgroup.VM{
		MemoryMiB: r.VM.MemoryMiB, VCPU: r.VCPU, Shares: len(plan.Tags(r.VM)), Emulated: !r.Hypervisor.KVM,
	})
}

// sweepGroups removes what no record names.
func (e *Engine) sweepGroups(ctx context.Context, records []Record) {
	var keep []cgroup.Group
	for _, r := range records {
		keep = append(keep, r.Group)
	}
	if err := e.groups.Sweep(ctx, keep); err != nil {
		e.Log.Warn("remove control groups that no VM has", "error", err)
	}
}

// limits are what `inspect` shows of a group.
func limits(r *Record) *spec.Limits {
	if r == nil || len(r.Group) == 0 {
		return nil
	}
	l := groupLimits(*r)
	return &spec.Limits{Groups: r.Group, MemoryMiB: l.MemoryMiB, Processes: l.Processes, CPUs: l.CPUs}
}

// outOfMemory makes the kernel's verdict the cause of a run's end: whatever it has
// ended, VMM or virtiofsd, the rest is but what followed.
func (r *run) outOfMemory(cause error) error {
	if r.group.OOMKills() == 0 {
		return cause
	}
	err := fmt.Errorf("the VM's processes came to use more memory than its control group may (%d MiB), so the kernel ended one: "+
		"give it more `mem`, or fewer files to remember", r.groupMiB)
	if cause == nil {
		return err
	}
	return fmt.Errorf("%w; %w", err, cause)
}
