package preflight

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"bield/internal/spec"
)

// Program is one that bield starts, as this host has it.
type Program struct {
	Name string
	// Purpose says what bield does with it.
	Purpose string
	// Path is where it is, "" where it is not.
	Path string
	// Version is what it says it is, or "".
	Version string
	// Problem is why it can't be used as it is.
	Problem string
	// Optional programs are not in bield's way.
	Optional bool
	// Do is how to get it on this host's distribution.
	Do []string
}

func (h Host) programs(ctx context.Context) []Result {
	all, err := h.Programs(ctx)
	if err != nil {
		r := warn("not looked for: " + err.Error())
		r.Name = "programs"
		return []Result{r}
	}
	results := make([]Result, 0, len(all))
	for _, p := range all {
		results = append(results, p.result())
	}
	return results
}

func (p Program) result() Result {
	r := Result{Name: p.Name, State: OK, Found: p.Path}
	if p.Version != "" {
		r.Found = p.Version + ", " + p.Path
	}
	if p.Path != "" && p.Problem == "" {
		return r
	}
	r.State, r.Do = Fail, p.Do
	if p.Optional {
		r.State = Warn
	}
	r.Found = "is not installed; it " + p.Purpose
	if p.Problem != "" {
		r.Found = p.Problem + "; it " + p.Purpose
	}
	return r
}

// kvm is a warning at most: guests run without it, slowly.
func (h Host) kvm() Result {
	usable, reason := h.KVM()
	if usable {
		return ok("guests run on the CPU itself")
	}
	device := h.path("dev/kvm")
	if !h.root() && unix.Access(device, unix.F_OK) == nil && unix.Access(device, unix.R_OK|unix.W_OK) != nil {
		return needsRoot("opening /dev/kvm")
	}
	return warn("guests are emulated, which works and is slow: "+reason, h.kvmAdvice()...)
}

// hypervisor says what the VMs of the configuration run on.
func (h Host) hypervisor(ctx context.Context) Result {
	asked := map[spec.HypervisorKind][]string{}
	for _, vm := range h.Config.Host.VMs {
		asked[vm.Hypervisor] = append(asked[vm.Hypervisor], vm.Name)
	}
	if len(asked) == 0 {
		asked[spec.HypervisorAuto] = nil
	}
	r := Result{State: OK}
	var found []string
	for _, kind := range slices.Sorted(maps.Keys(asked)) {
		why, err := h.Hypervisor(ctx, kind)
		if err != nil {
			r.State, why = Fail, err.Error()
			r.Do = append(r.Do, fmt.Sprintf("install it, or write another `hypervisor:` for %s", strings.Join(asked[kind], ", ")))
		}
		found = append(found, fmt.Sprintf("%s: %s", kind, why))
	}
	r.Found = strings.Join(found, "\n")
	return r
}

func (h Host) kvmAdvice() []string {
	text, err := os.ReadFile(h.path("proc/cpuinfo"))
	_, flags, found := strings.Cut(string(text), "\nflags")
	flags, _, _ = strings.Cut(flags, "\n")
	words := " " + strings.Join(strings.Fields(flags), " ") + " "
	switch {
	case err != nil || !found:
		return nil
	case strings.Contains(words, " vmx "):
		return []string{"sudo modprobe kvm_intel; `sudo dmesg | grep -i kvm` says why if that fails"}
	case strings.Contains(words, " svm "):
		return []string{"sudo modprobe kvm_amd; `sudo dmesg | grep -i kvm` says why if that fails"}
	case strings.Contains(words, " hypervisor "):
		return []string{"this machine is a VM itself: switch nested virtualization on for it, or take one that has it"}
	}
	return []string{"switch virtualization on in the firmware (Intel: VT-x, AMD: SVM)"}
}
