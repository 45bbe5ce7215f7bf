package plan

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"bield/internal/spec"
)

var update = flag.Bool("update", false, "write the goldens anew")

func claudeHome() spec.VM {
	return spec.VM{Name: "claude-home", Shares: []spec.Share{
		{Tag: "workspace", MountPoint: spec.WorkspaceMount}, {Tag: "claude-config", MountPoint: "/home/me/.claude"},
	}}
}

func running(vm spec.VM) spec.ObservedVM {
	have := spec.ObservedVM{Record: true, Firewall: spec.Present, Tap: spec.Present, VMM: true, Ready: true, Shares: map[string]bool{}}
	for _, tag := range Tags(vm) {
		have.Shares[tag] = true
	}
	return have
}

func TestDiffGoldens(t *testing.T) {
	vm := claudeHome()
	disk := vm
	disk.Name, disk.StoreOnDisk = "disk", true
	up := spec.Observed{Bridge: spec.Present, Forwarding: spec.Present, Firewall: spec.Present, VMs: map[string]spec.ObservedVM{vm.Name: running(vm)}}
	lostShare := running(vm)
	lostShare.Shares["workspace"] = false
	unseen := running(vm)
	unseen.Ready = false
	open := running(vm)
	open.Firewall = spec.Partial
	for name, c := range map[string]struct {
		want []spec.VM
		have spec.Observed
	}{
		"first":         {[]spec.VM{vm}, spec.Observed{}},
		"second":        {[]spec.VM{vm, disk}, up},
		"nothing":       {[]spec.VM{vm}, up},
		"last-goes":     {nil, up},
		"share-lost":    {[]spec.VM{vm}, spec.Observed{Bridge: spec.Partial, Forwarding: spec.Present, Firewall: spec.Present, VMs: map[string]spec.ObservedVM{vm.Name: lostShare}}},
		"rules-flushed": {[]spec.VM{vm}, spec.Observed{Bridge: spec.Present, Forwarding: spec.Present, Firewall: spec.Present, VMs: map[string]spec.ObservedVM{vm.Name: open}}},
		"not-yet-seen":  {[]spec.VM{vm}, spec.Observed{Bridge: spec.Present, Forwarding: spec.Present, Firewall: spec.Present, VMs: map[string]spec.ObservedVM{vm.Name: unseen}}},
	} {
		t.Run(name, func(t *testing.T) {
			var lines strings.Builder
			for _, step := range Diff(c.want, c.have) {
				lines.WriteString(step.String() + "\n")
			}
			golden(t, name, lines.String())
		})
	}
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
// damage, one plan leads to a host that needs no other.
func TestDiffReachesTheSpec(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var want []spec.VM
		have := spec.Observed{
			Bridge: drawPart(t, "bridge"), Forwarding: drawPart(t, "forwarding"), Firewall: drawPart(t, "firewall"),
			VMs: map[string]spec.ObservedVM{},
		}
		for _, name := range []string{"a", "b", "c"} {
			vm := claudeHome()
			vm.Name, vm.StoreOnDisk = name, rapid.Bool().Draw(t, "disk")
			if rapid.Bool().Draw(t, "wanted") {
				want = append(want, vm)
			}
			have.VMs[name] = drawVM(t, vm)
		}
		for _, step := range Diff(want, have) {
			carryOut(t, step, &have)
		}
		if rest := Diff(want, have); len(rest) > 0 {
			t.Fatalf("left to do: %v", rest)
		}
	})
}

func drawPart(t *rapid.T, label string) spec.Part {
	return rapid.SampledFrom([]spec.Part{spec.Absent, spec.Partial, spec.Present}).Draw(t, label)
}

// drawVM is any state that a crash can leave: nothing is there without a
// record.
func drawVM(t *rapid.T, vm spec.VM) spec.ObservedVM {
	have := spec.ObservedVM{Record: rapid.Bool().Draw(t, "record")}
	if !have.Record {
		return have
	}
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
func carryOut(t *rapid.T, step Step, host *spec.Observed) {
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
	case RemoveFirewall:
		host.Firewall = spec.Absent
	case RestoreForwarding:
		host.Forwarding = spec.Absent
	case RemoveBridge:
		host.Bridge = spec.Absent
	case MakeImage:
		need(!vm.Record, "no leftovers")
		vm.Record = true
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
