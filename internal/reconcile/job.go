package reconcile

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"reflect"
	"time"

	"bield/internal/cgroup"
	"bield/internal/hypervisor"
	"bield/internal/image"
	"bield/internal/plan"
	"bield/internal/share"
	"bield/internal/spec"
	"bield/internal/sshaccess"
	"bield/internal/state"
)

// job carries out the steps of one VM, in order, for one call. It lives as
// long as the call and needs the VM's turn.
type job struct {
	e      *Engine
	m      *machine
	vm     spec.VM
	caller Caller
	show   func(Progress)
	// host is what was applied when the call came, whatever is applied later.
	host spec.Host

	// What earlier steps leave for later ones.
	sources    map[string]share.Source // by tag
	hypervisor hypervisor.Choice
	image      image.Image
	// detach lets the job go on when its client goes.
	detach func()
	keys   []sshaccess.Key // that open the guest
	run    *run            // being put together
	step   plan.Step       // under way
}

func (e *Engine) newJob(m *machine, vm spec.VM, caller Caller, show func(Progress)) *job {
	return &job{e: e, m: m, vm: vm, caller: caller, show: show, host: e.host(), sources: map[string]share.Source{}}
}

// bringUp makes what the host needs and then the VM's own steps. The VM's
// record stands first: it keeps a `down` of the last other VM from taking the
// bridge away.
func (j *job) bringUp(ctx context.Context, steps []plan.Step) error {
	j.e.setState(j.m, spec.StateStarting, "")
	for _, step := range steps {
		if step.Kind == plan.MakeImage {
			if err := j.begin(ctx); err != nil {
				return err
			}
		}
		if err := j.do(ctx, step); err != nil {
			return err
		}
	}
	return nil
}

func (j *job) begin(ctx context.Context) error {
	host := j.host
	host.VMs = nil
	record, err := j.e.reserve(j.m, Record{
		VM: j.vm, Host: host, VCPU: j.vm.EffectiveVCPU(j.hypervisor.KVM, j.e.Cores), Hypervisor: j.hypervisor, Group: j.nameGroup(),
	})
	if err != nil {
		return err
	}
	if err := j.save(record); err != nil {
		return err
	}
	j.e.at("amid " + j.vm.Name + ": begin")
	if err := makeVMDir(j.e.Run.VM(j.vm.Name)); err != nil {
		return err
	}
	if err := j.makeGroup(ctx, record); err != nil {
		return err
	}
	j.e.at("amid " + j.vm.Name + ": begin")
	return j.e.hostUp(ctx, j.host, j.show)
}

// do carries out one step of the VM and reports it.
func (j *job) do(ctx context.Context, step plan.Step) error {
	j.step = step
	return j.e.perform(ctx, step, j.act, j.show)
}

// perform carries out a step and reports its start and its end.
func (e *Engine) perform(ctx context.Context, step plan.Step, act func(context.Context, plan.Step) error, show func(Progress)) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	name := string(step.Kind)
	if step.Share != "" {
		name += " " + step.Share
	}
	began := time.Now()
	e.at("before " + step.Name())
	show(Progress{VM: step.VM, Step: name, State: "start"})
	e.metrics.stepBegins(step, began)
	err := act(ctx, step)
	e.at("after " + step.Name())
	e.stepOver(step, name, began, err)
	p := Progress{VM: step.VM, Step: name, State: "done", Elapsed: time.Since(began)}
	if err != nil {
		p.State, p.Message = "failed", err.Error()
	}
	show(p)
	return err
}

func (j *job) act(ctx context.Context, step plan.Step) error {
	switch step.Kind {
	case plan.MakeImage:
		return j.makeImage(ctx)
	case plan.MakeKeys:
		return j.makeKeys()
	case plan.SetFirewall:
		return j.setFirewall(ctx)
	case plan.AddTap:
		return j.addTap(ctx)
	case plan.StartShare:
		return j.startShare(ctx, step.Share)
	case plan.StartVMM:
		return j.startVMM(ctx)
	case plan.AwaitReady:
		return j.awaitReady(ctx)
	case plan.UpdateVM:
		return j.update(ctx)
	default:
		return j.actBack(ctx, step)
	}
}

// actBack carries out the steps that take something away.
func (j *job) actBack(ctx context.Context, step plan.Step) error {
	switch step.Kind {
	case plan.StopVMM:
		return j.stopVMM(ctx)
	case plan.StopShare:
		return j.stopShare(ctx, step.Share)
	case plan.RemoveTap:
		return j.removeTap(ctx)
	case plan.ClearFirewall:
		return j.clearFirewall(ctx)
	case plan.Forget:
		return j.forget(ctx)
	default:
		return fmt.Errorf("step %q is not known", step.Kind)
	}
}

// record returns a copy of the VM's record.
func (j *job) record() Record {
	j.e.mu.Lock()
	defer j.e.mu.Unlock()
	if j.m.record == nil {
		return Record{VM: j.vm}
	}
	return j.m.record.clone()
}

// save writes the record to disk and then makes it the one in memory.
func (j *job) save(r Record) error {
	if err := state.Write(j.e.Run.Record(j.m.name), r, 0o600); err != nil {
		return err
	}
	j.e.mu.Lock()
	defer j.e.mu.Unlock()
	j.m.record = &r
	return nil
}

// change edits the record.
func (j *job) change(edit func(*Record)) error {
	r := j.record()
	edit(&r)
	err := j.save(r)
	j.e.at("amid " + j.step.Name())
	return err
}

// drop edits the record after something was taken away. A disk without room for
// the new record must not keep the rest from being taken away: the old one on it
// names more than is there, which does no harm.
func (j *job) drop(edit func(*Record)) error {
	r := j.record()
	edit(&r)
	j.e.at("amid " + j.step.Name())
	if err := j.save(r); err != nil {
		j.e.Log.Warn("record", "vm", j.m.name, "error", err)
		j.e.mu.Lock()
		defer j.e.mu.Unlock()
		j.m.record = &r
	}
	return nil
}

// forget removes the VM's control group, with whatever may be left in it, its run
// directory and its record, in that order.
func (j *job) forget(ctx context.Context) error {
	err := j.e.groups.Remove(ctx, j.record().Group)
	if errors.Is(err, cgroup.ErrForeign) {
		// The record is from before the machine was started: it went with that.
		j.e.Log.Warn("a control group of an earlier time is left alone", "vm", j.m.name, "error", err)
	} else if err != nil {
		return err
	}
	if err := removeAll(j.e.Run.VM(j.m.name)); err != nil {
		return err
	}
	j.e.at("amid " + j.step.Name())
	if err := state.Remove(j.e.Run.Record(j.m.name)); err != nil {
		return err
	}
	j.e.mu.Lock()
	defer j.e.mu.Unlock()
	j.m.record, j.m.run = nil, nil
	return nil
}

// reserve gives a record a uid for its VMM and makes it the VM's, so that no
// other VM gets the same. It fails if the VM is no longer declared so: who changes
// a declaration waits for starts, but who drops it does not.
func (e *Engine) reserve(m *machine, r Record) (Record, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if vm, declared := e.applied.Host.VM(m.name); !declared || !reflect.DeepEqual(vm, r.VM) || !sameGround(e.applied.Host, r.Host) {
		return r, errDropped
	}
	r.UID, r.Origin = e.freeUID(m.name), e.applied.Origins[m.name]
	m.record = &r
	return r.clone(), nil
}

// freeUID picks the host uid of a VM's VMM: it follows from the run directory
// and the name, so that several bields differ, and no two VMs of one share it.
// Needs e.mu.
func (e *Engine) freeUID(name string) uint32 {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(e.Run.Dir + "/" + name))
	taken := map[uint32]bool{}
	for _, m := range e.vms {
		if m.record != nil && m.name != name {
			taken[m.record.UID] = true
		}
	}
	offset := hash.Sum32() % spec.VMMUIDCount
	for taken[spec.VMMUIDBase+offset] {
		offset = (offset + 1) % spec.VMMUIDCount
	}
	return spec.VMMUIDBase + offset
}
