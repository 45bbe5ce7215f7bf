package plan

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"bield/internal/spec"
)

var update = flag.Bool("update", false, "write the goldens anew")

func claudeHome() spec.VM {
	return spec.VM{
		Name: "claude-home", MemoryMiB: 4096, Restart: spec.RestartNever, RestartIfChanged: true,
		Shares: []spec.Share{
			{Tag: "workspace", MountPoint: spec.WorkspaceMount}, {Tag: "claude-config", MountPoint: "/home/me/.claude"},
		},
	}
}

func running(vm spec.VM) spec.ObservedVM {
	have := spec.ObservedVM{
		Record: true, Spec: &vm, Host: &spec.Host{Bridge: "microbr"}, Image: "0123456789abcdef",
		Firewall: spec.Present, Tap: spec.Present, VMM: true, Ready: true, Shares: map[string]bool{},
	}
	for _, tag := range Tags(vm) {
		have.Shares[tag] = true
	}
	return have
}

func toRun(vms ...spec.VM) Desired {
	d := Desired{Host: spec.Host{Bridge: "microbr"}}
	for _, vm := range vms {
		d.VMs = append(d.VMs, Wanted{VM: vm, Run: true, Image: "0123456789abcdef"})
	}
	return d
}

func TestDiffGoldens(t *testing.T) {
	vm := claudeHome()
	disk := vm
	disk.Name, disk.StoreOnDisk = "disk", true
	on := func(vms ...spec.ObservedVM) spec.Observed {
		have := spec.Observed{Bridge: spec.Present, Forwarding: spec.Present, Firewall: spec.Present, Egress: spec.Present, VMs: map[string]spec.ObservedVM{}}
		for _, vm := range vms {
			have.VMs[vm.Spec.Name] = vm
		}
		return have
	}
	with := func(edit func(*spec.ObservedVM)) spec.ObservedVM {
		have := running(vm)
		edit(&have)
		return have
	}
	more, fixed, keys := vm, vm, vm
	more.MemoryMiB, more.Image.Packages = 8192, []string{"nodejs"}
	fixed.MemoryMiB, fixed.RestartIfChanged = 8192, false
	keys.User.AuthorizedKeys = []string{"ssh-ed25519 AAAA me@laptop"}
	otherBridge := on(running(vm))
	otherBridge.Bridge, otherBridge.OtherBridge = spec.Absent, true
	moved := toRun(vm)
	moved.Host.Bridge = "agents"
	newImage := toRun(vm)
	newImage.VMs[0].Image = "fedcba9876543210"
	partBridge := on(with(func(o *spec.ObservedVM) { o.Shares["workspace"] = false }))
	partBridge.Bridge = spec.Partial
	for name, c := range map[string]struct {
		want Desired
		have spec.Observed
	}{
		"first":         {toRun(vm), spec.Observed{}},
		"second":        {toRun(vm, disk), on(running(vm))},
		"nothing":       {toRun(vm), on(running(vm))},
		"not-to-run":    {Desired{VMs: []Wanted{{VM: vm}}}, spec.Observed{}},
		"last-goes":     {Desired{}, on(running(vm))},
		"one-goes":      {toRun(vm), on(running(vm), running(disk))},
		"share-lost":    {toRun(vm), partBridge},
		"vmm-lost":      {toRun(vm), on(with(func(o *spec.ObservedVM) { o.VMM = false }))},
		"left-over":     {Desired{VMs: []Wanted{{VM: vm}}}, on(with(func(o *spec.ObservedVM) { o.VMM = false }))},
		"rules-flushed": {toRun(vm), on(with(func(o *spec.ObservedVM) { o.Firewall = spec.Partial }))},
		"not-yet-seen":  {toRun(vm), on(with(func(o *spec.ObservedVM) { o.Ready = false }))},
		"changed":       {toRun(more), on(running(vm))},
		"changed-fixed": {toRun(fixed), on(running(vm))},
		"changed-live":  {toRun(keys), on(running(vm))},
		"new-image":     {newImage, on(running(vm))},
		"bridge-moved":  {moved, otherBridge},
	} {
		t.Run(name, func(t *testing.T) { golden(t, name, text(Diff(c.want, c.have))) })
	}
}

// text is a plan with its reasons, and its steps in order.
func text(p Plan) string {
	var b strings.Builder
	for _, c := range p.VMs {
		fmt.Fprintf(&b, "%s: %s: %s\n", c.VM, c.Action, strings.Join(append(c.Reasons, c.Pending...), ", "))
	}
	for _, step := range p.Steps() {
		b.WriteString("  " + step.String() + "\n")
	}
	return b.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

// TestDiffReachesTheSpec carries out plans on a model of a host: from any
// damage and any change of the file, one plan leads to a host that needs no
// other.
func TestDiffReachesTheSpec(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Desired{Host: spec.Host{Bridge: rapid.SampledFrom([]string{"microbr", "other"}).Draw(t, "name of the bridge")}}
		have := spec.Observed{
			Bridge: drawPart(t, "bridge"), Forwarding: drawPart(t, "forwarding"), Firewall: drawPart(t, "firewall"), Egress: drawPart(t, "egress"),
			CutOff: rapid.Bool().Draw(t, "cut off"), Passage: drawPart(t, "passage"),
			VMs: map[string]spec.ObservedVM{},
		}
		for _, name := range []string{"a", "b", "c"} {
			was, is := drawSpec(t, name), drawSpec(t, name)
			if rapid.Bool().Draw(t, "declared") {
				want.VMs = append(want.VMs, Wanted{VM: is, Run: rapid.Bool().Draw(t, "to run"), Image: drawImage(t)})
			}
			have.VMs[name] = drawVM(t, was)
		}
		if have.Bridge != spec.Absent && want.Host.Bridge != "microbr" {
			have.Bridge, have.OtherBridge = spec.Partial, true
		}
		for _, step := range Diff(want, have).Steps() {
			carryOut(t, step, want, &have)
		}
		if rest := Diff(want, have); !rest.Empty() {
			t.Fatalf("left to do: %v", rest.Steps())
		}
		for _, w := range want.VMs {
			vm := have.VMs[w.Name]
			if vm.Record != w.Run || w.Run && w.RestartIfChanged && (vm.Spec.MemoryMiB != w.MemoryMiB || vm.Image != w.Image) {
				t.Fatalf("%s: is %+v, wanted %+v", w.Name, vm, w)
			}
		}
	})
}

func drawSpec(t *rapid.T, name string) spec.VM {
	vm := claudeHome()
	vm.Name, vm.StoreOnDisk = name, rapid.Bool().Draw(t, "disk")
	vm.MemoryMiB = rapid.SampledFrom([]int{1024, 2048}).Draw(t, "mem")
	vm.StopTimeout = time.Duration(rapid.IntRange(1, 2).Draw(t, "stopTimeout")) * time.Second
	vm.RestartIfChanged = rapid.Bool().Draw(t, "restartIfChanged")
	if rapid.Bool().Draw(t, "fewer shares") {
		vm.Shares = vm.Shares[:1]
	}
	return vm
}

func drawImage(t *rapid.T) string {
	return rapid.SampledFrom([]string{"0123456789abcdef", "fedcba9876543210"}).Draw(t, "image")
}

func drawPart(t *rapid.T, label string) spec.Part {
	return rapid.SampledFrom([]spec.Part{spec.Absent, spec.Partial, spec.Present}).Draw(t, label)
}

// drawVM is any state that a crash can leave: nothing is there without a
// record.
func drawVM(t *rapid.T, vm spec.VM) spec.ObservedVM {
	if rapid.Bool().Draw(t, "whole") {
		have := running(vm)
		have.Image = drawImage(t)
		return have
	}
	have := spec.ObservedVM{Record: rapid.Bool().Draw(t, "record")}
	if !have.Record {
		return have
	}
	have.Spec, have.Host, have.Image = &vm, &spec.Host{Bridge: "microbr"}, drawImage(t)
	have.Firewall, have.Tap = drawPart(t, "fw"), drawPart(t, "tap")
	have.VMM, have.Ready = rapid.Bool().Draw(t, "vmm"), rapid.Bool().Draw(t, "ready")
	have.Shares = map[string]bool{}
	for _, tag := range Tags(vm) {
		if rapid.Bool().Draw(t, "started") {
			have.Shares[tag] = rapid.Bool().Draw(t, "served")
		}
	}
	return have
}

// carryOut is what a step does to the model; a step that needs what is not
// there fails the test.
func carryOut(t *rapid.T, step Step, want Desired, host *spec.Observed) {
	var wanted Wanted
	for _, w := range want.VMs {
		if w.Name == step.VM {
			wanted = w
		}
	}
	vm := host.VMs[step.VM]
	if vm.Shares == nil {
		vm.Shares = map[string]bool{}
	}
	need := func(ok bool, what string) {
		if !ok {
			t.Fatalf("%s needs %s", step, what)
		}
	}
	switch step.Kind {
	case AddBridge:
		host.Bridge = spec.Present
	case SetForwarding:
		host.Forwarding = spec.Present
	case StartEgress:
		need(host.Bridge == spec.Present, "the bridge")
		host.Egress = spec.Present
	case StopEgress:
		host.Egress = spec.Absent
	case OpenPassage:
		host.CutOff, host.Passage = false, spec.Present
	case ClosePassage:
		host.Passage = spec.Absent
	case RemoveFirewall:
		host.Firewall = spec.Absent
	case RestoreForwarding:
		host.Forwarding = spec.Absent
	case RemoveBridge:
		for name, vm := range host.VMs {
			need(vm.Tap == spec.Absent, name+" off the bridge")
		}
		need(host.Egress == spec.Absent, "the egress process gone")
		host.Bridge, host.OtherBridge = spec.Absent, false
	case MakeImage:
		need(!vm.Record, "no leftovers")
		vm.Record, vm.Spec, vm.Host, vm.Image = true, &wanted.VM, &want.Host, wanted.Image
	case UpdateVM:
		need(vm.VMM, "a VMM")
		is := *vm.Spec
		is.StopTimeout, is.RestartIfChanged = wanted.StopTimeout, wanted.RestartIfChanged
		vm.Spec = &is
	case MakeKeys:
	case SetFirewall:
		vm.Firewall, host.Firewall = spec.Present, spec.Present
	case AddTap:
		need(host.Bridge == spec.Present && vm.Firewall == spec.Present, "bridge and rules")
		vm.Tap = spec.Present
	case StartShare:
		vm.Shares[step.Share] = true
	case StartVMM:
		need(vm.Tap == spec.Present && len(vm.Shares) > 0, "tap and shares")
		vm.VMM = true
	case AwaitReady:
		need(vm.VMM, "a VMM")
		vm.Ready = true
	case StopVMM:
		vm.VMM = false
	case StopShare:
		need(!vm.VMM, "the VMM gone")
		delete(vm.Shares, step.Share)
	case RemoveTap:
		need(!vm.VMM, "the VMM gone")
		vm.Tap = spec.Absent
	case ClearFirewall:
		vm.Firewall = spec.Absent
	case Forget:
		need(!vm.VMM && vm.Tap == spec.Absent && len(vm.Shares) == 0, "nothing left")
		vm = spec.ObservedVM{}
	}
	if step.VM != "" {
		host.VMs[step.VM] = vm
	}
}
