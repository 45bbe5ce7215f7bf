package reconcile

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"bield/internal/spec"
)

// Caller is who asks, as the kernel says.
type Caller struct {
	UID, GID uint32
	Groups   []uint32
}

// Root says that the caller may do anything.
func (c Caller) Root() bool { return c.UID == 0 }

// UpRequest hands over a checked host and asks for some of its VMs to run.
type UpRequest struct {
	Host   spec.Host
	Origin string
	Names  []string
}

// accept checks a request and makes its host part of the applied spec. The
// VMs of other files stay as they are.
func (e *Engine) accept(caller Caller, request UpRequest) ([]spec.VM, error) {
	vms, err := named(request.Host, request.Names)
	if err != nil {
		return nil, err
	}
	if err := problems(request.Host); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.permit(caller, request.Host, vms); err != nil {
		return nil, err
	}
	merged, err := e.merge(request)
	if err != nil {
		return nil, err
	}
	if err := saveApplied(e.Run, merged); err != nil {
		return nil, err
	}
	e.applied = merged
	return vms, nil
}

func named(host spec.Host, names []string) ([]spec.VM, error) {
	if len(names) == 0 {
		names = host.Names()
	}
	var vms []spec.VM
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		vm, ok := host.VM(name)
		if !ok {
			return nil, fmt.Errorf("%w: the file declares no VM %q; it has: %s", ErrNotFound, name, strings.Join(host.Names(), ", "))
		}
		vms = append(vms, vm)
	}
	return vms, nil
}

// problems applies the rules again that bield has checked with positions: a
// client may be anything.
func problems(host spec.Host) error {
	found := spec.Check(host)
	if len(found) == 0 {
		return nil
	}
	lines := make([]string, len(found))
	for i, p := range found {
		lines[i] = strings.Join(p.Path, ".") + ": " + p.Message
	}
	return fmt.Errorf("%w: %s", ErrConflict, strings.Join(lines, "; "))
}

// permit keeps to root what touches the host itself. Others may run VMs of
// their own in a host that root has set up. Needs e.mu.
func (e *Engine) permit(caller Caller, host spec.Host, vms []spec.VM) error {
	if caller.Root() {
		return nil
	}
	if !sameHost(e.applied.Host, host) {
		return fmt.Errorf("%w: only root may set or change bridge, subnet, externalInterface, stateDir and nameservers of this host: use sudo once, or take over its values", ErrForbidden)
	}
	for _, vm := range vms {
		if vm.User.UID != caller.UID {
			return fmt.Errorf("%w: VM %s has the user %s (uid %d): only root may start a VM of another user", ErrForbidden, vm.Name, vm.User.Name, vm.User.UID)
		}
		if vm.Image.Mirror != "" || vm.Image.Keyring != "" {
			return fmt.Errorf("%w: VM %s sets image.mirror or image.keyring, which only root may", ErrForbidden, vm.Name)
		}
	}
	return nil
}

// sameHost compares what two specs say of the host itself.
func sameHost(a, b spec.Host) bool {
	return a.Bridge == b.Bridge && a.Subnet == b.Subnet && a.ExternalInterface == b.ExternalInterface &&
		a.StateDir == b.StateDir && slices.Equal(a.Nameservers, b.Nameservers)
}

// merge puts the VMs of one file into the applied spec. A VM that runs and
// that its file no longer declares stays until it is stopped. Needs e.mu.
func (e *Engine) merge(request UpRequest) (Applied, error) {
	if running := e.running(); len(running) > 0 && !sameHost(e.applied.Host, request.Host) {
		return Applied{}, fmt.Errorf("%w: %s changes the host's own settings while VMs run: `bield down %s` first", ErrConflict, request.Origin, strings.Join(running, " "))
	}
	merged := Applied{Host: request.Host, Origins: map[string]string{}}
	merged.Host.VMs = slices.Clone(request.Host.VMs)
	for _, vm := range request.Host.VMs {
		merged.Origins[vm.Name] = request.Origin
	}
	for _, vm := range e.applied.Host.VMs {
		origin := e.applied.Origins[vm.Name]
		if here, clash := merged.Origins[vm.Name]; clash && here != origin {
			return Applied{}, fmt.Errorf("%w: VM %s is declared by %s already: choose another name", ErrConflict, vm.Name, origin)
		}
		if origin != request.Origin {
			merged.Host.VMs = append(merged.Host.VMs, vm)
			merged.Origins[vm.Name] = origin
		}
	}
	slices.SortFunc(merged.Host.VMs, func(a, b spec.VM) int { return strings.Compare(a.Name, b.Name) })
	return merged, problems(merged.Host)
}

// running names the VMs of which something is there. Needs e.mu.
func (e *Engine) running() []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(e.vms)) {
		if e.vms[name].record != nil {
			names = append(names, name)
		}
	}
	return names
}
