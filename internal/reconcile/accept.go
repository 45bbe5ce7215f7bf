package reconcile

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

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
// VMs of other files stay as they are. host is what the call works with from
// now on, whatever is applied after it.
func (e *Engine) accept(caller Caller, request UpRequest) (host spec.Host, vms []spec.VM, err error) {
	if vms, err = named(request.Host, request.Names); err != nil {
		return host, nil, err
	}
	if err := errors.Join(checkOrigin(request.Origin), problems(request.Host)); err != nil {
		return host, nil, err
	}
	e.acceptMu.Lock()
	defer e.acceptMu.Unlock()
	applied, running := e.snapshot()
	if err := permit(caller, applied.Host, request.Host); err != nil {
		return host, nil, err
	}
	merged, err := merge(caller, request, applied, running)
	if err != nil {
		return host, nil, err
	}
	if err := saveApplied(e.Run, merged); err != nil {
		return host, nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.applied = merged
	for _, vm := range vms {
		e.hold(vm.Name).pending++ // until its up is over
	}
	return merged.Host, vms, nil
}

// snapshot is the applied spec and the VMs that work with it: something of
// them is there, or about to be.
func (e *Engine) snapshot() (Applied, []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var used []string
	for _, name := range slices.Sorted(maps.Keys(e.vms)) {
		if m := e.vms[name]; m.record != nil || m.pending > 0 {
			used = append(used, name)
		}
	}
	return e.applied, used
}

// maxOrigin is PATH_MAX of linux/limits.h.
const maxOrigin = 4096

// checkOrigin keeps what is printed later to what a path can be.
func checkOrigin(origin string) error {
	unprintable := strings.ContainsFunc(origin, func(r rune) bool { return !unicode.IsPrint(r) })
	if !filepath.IsAbs(origin) || filepath.Clean(origin) != origin || len(origin) > maxOrigin || unprintable {
		return fmt.Errorf("%w: the origin %.80q is no absolute path of a file", ErrConflict, origin)
	}
	return nil
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
// their own in a host that root has set up.
func permit(caller Caller, applied, host spec.Host) error {
	if caller.Root() {
		return nil
	}
	if !sameHost(applied, host) {
		return fmt.Errorf("%w: only root may set or change bridge, subnet, externalInterface, stateDir and nameservers of this host: use sudo once, or take over its values", ErrForbidden)
	}
	for _, vm := range host.VMs {
		if err := permitVM(caller, vm); err != nil {
			return fmt.Errorf("%w: VM %s %w", ErrForbidden, vm.Name, err)
		}
	}
	return nil
}

func permitVM(caller Caller, vm spec.VM) error {
	switch {
	case !caller.mayUse(vm):
		return fmt.Errorf("has the user %s (uid %d): only root may declare a VM of another user", vm.User.Name, vm.User.UID)
	case vm.User.GID != caller.GID && !slices.Contains(caller.Groups, vm.User.GID):
		return fmt.Errorf("has the group %d, which you are not in", vm.User.GID)
	case vm.Image.Mirror != "" || vm.Image.Keyring != "":
		return errors.New("sets image.mirror or image.keyring, which only root may")
	}
	return nil
}

// mayUse says that the caller may reach into a VM and stop it: its own user
// and root. Whoever logs in to a guest sees all that is shared with it.
func (c Caller) mayUse(vm spec.VM) bool { return c.Root() || vm.User.UID == c.UID }

// sameHost compares what two specs say of the host itself.
func sameHost(a, b spec.Host) bool {
	return a.Bridge == b.Bridge && a.Subnet == b.Subnet && a.ExternalInterface == b.ExternalInterface &&
		a.StateDir == b.StateDir && slices.Equal(a.Nameservers, b.Nameservers)
}

// merge puts the VMs of one file into the applied spec. A VM that runs and
// that its file no longer declares stays until it is stopped. A VM that does
// not run may move to another file; nobody but root takes over a VM of another
// user.
func merge(caller Caller, request UpRequest, applied Applied, running []string) (Applied, error) {
	if len(running) > 0 && !sameHost(applied.Host, request.Host) {
		return Applied{}, fmt.Errorf("%w: %s changes the host's own settings while VMs run: `bield down %s` first", ErrConflict, request.Origin, strings.Join(running, " "))
	}
	merged := Applied{Host: request.Host, Origins: map[string]string{}}
	merged.Host.VMs = slices.Clone(request.Host.VMs)
	for _, vm := range request.Host.VMs {
		merged.Origins[vm.Name] = request.Origin
	}
	for _, vm := range applied.Host.VMs {
		origin, runs := applied.Origins[vm.Name], slices.Contains(running, vm.Name)
		_, here := merged.Origins[vm.Name]
		mine := caller.mayUse(vm) && (origin == request.Origin || !runs)
		switch {
		case here && !mine:
			return Applied{}, fmt.Errorf("%w: VM %s is declared by %s already: choose another name", ErrConflict, vm.Name, origin)
		case here, origin == request.Origin && mine, !runs && gone(origin):
		default:
			merged.Host.VMs = append(merged.Host.VMs, vm)
			merged.Origins[vm.Name] = origin
		}
	}
	slices.SortFunc(merged.Host.VMs, func(a, b spec.VM) int { return strings.Compare(a.Name, b.Name) })
	return merged, problems(merged.Host)
}

// gone says that a file is not there any more: its VMs then hold no names and
// addresses.
func gone(file string) bool {
	_, err := os.Lstat(file)
	return errors.Is(err, fs.ErrNotExist)
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
