package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
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
	// Force starts VMs for which the host has not enough.
	Force bool
}

// accepted is what a request for the applied spec came to.
type accepted struct {
	before, after Applied
	names         []string
	// turns are those of an up, at each of its VMs.
	turns []*turn
	// downs counts those of each VM until then.
	downs map[string]int
}

// accept checks a request and makes its host part of the applied spec. The
// VMs of other files stay as they are. whole says that it is an apply's: VMs may
// be stopped for the host's own settings, and those asked for count as used until
// settle is called. An up takes its turns.
//
// What is just being started is declared otherwise only after that: each request
// is then one thing to all others.
func (e *Engine) accept(ctx context.Context, caller Caller, request UpRequest, whole bool) (accepted, error) {
	for {
		a, wait, err := e.acceptNow(caller, request, whole)
		if wait == nil {
			return a, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return a, fmt.Errorf("wait for VMs that are being started and have changed: %w", context.Cause(ctx))
		}
	}
}

// acceptNow is accept; it returns what to wait for before the next try, or nil.
func (e *Engine) acceptNow(caller Caller, request UpRequest, whole bool) (a accepted, wait <-chan struct{}, err error) {
	e.acceptMu.Lock()
	defer e.acceptMu.Unlock()
	a, err = e.weigh(caller, request, whole)
	if err != nil {
		return a, nil, err
	}
	if wait := e.startsInTheWay(a); wait != nil {
		return a, wait, nil
	}
	err = e.take(caller, request, &a, whole)
	return a, nil, err
}

// take makes what was weighed the applied spec. Needs acceptMu.
func (e *Engine) take(caller Caller, request UpRequest, a *accepted, whole bool) error {
	e.at("before accept")
	if err := saveApplied(e.Run, a.after); err != nil {
		return err
	}
	e.at("after accept")
	defer e.noteApply(caller, request) // once it can be seen
	defer e.letGo(*a)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.applied = a.after
	if !whole {
		a.turns = e.queueAll(a.names, true)
		return nil
	}
	a.downs = map[string]int{}
	for _, name := range a.names {
		m := e.hold(name)
		m.pending++
		a.downs[name] = m.downs
	}
	return nil
}

// startsInTheWay says that VMs are just being started by a declaration that the
// request changes, and returns what is closed when that may have ended. Needs
// acceptMu, without which no turn for a start is taken.
func (e *Engine) startsInTheWay(a accepted) <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	moves := !sameGround(a.before.Host, a.after.Host)
	for name, m := range e.vms {
		before, was := a.before.Host.VM(name)
		after, stays := a.after.Host.VM(name)
		if m.starting() && was && stays && (moves || !reflect.DeepEqual(before, after)) {
			return e.changed
		}
	}
	return nil
}

// letGo forgets what was to become of VMs that are no longer declared and of
// which nothing is there. Those of which something is, an apply takes away.
func (e *Engine) letGo(a accepted) {
	for _, name := range a.before.Host.Names() {
		if _, declared := a.after.Origins[name]; declared {
			continue
		}
		m := e.machine(name)
		e.mu.Lock()
		there := m.record != nil || len(m.queue) > 0
		e.mu.Unlock()
		if !there {
			e.dropRetry(m)
			e.dropFate(name)
			e.mu.Lock()
			e.forgetMachine(m)
			e.mu.Unlock()
		}
	}
}

// weigh says what a request would come to.
func (e *Engine) weigh(caller Caller, request UpRequest, whole bool) (a accepted, err error) {
	if a.names, err = named(request.Host, request.Names); err != nil {
		return a, err
	}
	if err := errors.Join(checkOrigin(request.Origin), problems(request.Host, func(string) string { return "" })); err != nil {
		return a, err
	}
	var used []tenant
	a.before, used = e.snapshot()
	if err := permit(caller, a.before.Host, request.Host); err != nil {
		return a, err
	}
	a.after, err = merge(caller, request, a.before, used, whole)
	return a, err
}

// settle says that an apply is over.
func (e *Engine) settle(names []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, name := range names {
		m := e.hold(name)
		m.pending--
		e.forgetMachine(m)
	}
	e.stir()
}

// tenant is a VM that works with the host's settings: something of it is there,
// or about to be.
type tenant struct {
	name, origin string
	vm           *spec.VM // as it was started; nil when nothing of it is there yet
}

// snapshot is the applied spec and the VMs that work with it.
func (e *Engine) snapshot() (Applied, []tenant) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var used []tenant
	for _, name := range slices.Sorted(maps.Keys(e.vms)) {
		if m := e.vms[name]; m.record != nil || m.pending > 0 || m.starting() {
			t := tenant{name: name, origin: e.originOf(m)}
			if m.record != nil {
				t.vm = &m.record.VM
			}
			used = append(used, t)
		}
	}
	return e.applied, used
}

// originOf is the file that a VM comes from, or came from when it was started.
// Needs e.mu.
func (e *Engine) originOf(m *machine) string {
	if origin, declared := e.applied.Origins[m.name]; declared || m.record == nil {
		return origin
	}
	return m.record.Origin
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

func named(host spec.Host, names []string) ([]string, error) {
	if len(names) == 0 {
		return host.Names(), nil
	}
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	for _, name := range names {
		if _, ok := host.VM(name); !ok {
			return nil, fmt.Errorf("%w: the file declares no VM %q; it has: %s", ErrNotFound, name, strings.Join(host.Names(), ", "))
		}
	}
	return names, nil
}

// problems applies the rules again that bield has checked with positions: a
// client may be anything. declaredBy names the file of a VM, where that is to be
// told.
func problems(host spec.Host, declaredBy func(vm string) string) error {
	found := spec.Check(host)
	if len(found) == 0 {
		return nil
	}
	lines := make([]string, len(found))
	for i, p := range found {
		lines[i] = strings.Join(p.Path, ".") + ": " + p.Message
		if len(p.Path) < 2 || p.Path[0] != "vms" {
			continue
		}
		if origin := declaredBy(p.Path[1]); origin != "" {
			lines[i] += " (declared by " + origin + ")"
		}
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
		return fmt.Errorf("%w: only root may set or change bridge, subnet, externalInterface, stateDir, nameservers and memory limits of this host: use sudo once, or take over its values", ErrForbidden)
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
	return sameGround(a, b) && a.MemoryReserveMiB == b.MemoryReserveMiB && a.MemoryOvercommit == b.MemoryOvercommit
}

// sameGround compares what VMs stand on.
func sameGround(a, b spec.Host) bool {
	return a.Bridge == b.Bridge && a.Subnet == b.Subnet && a.ExternalInterface == b.ExternalInterface &&
		a.StateDir == b.StateDir && slices.Equal(a.Nameservers, b.Nameservers) &&
		a.TrustBridge == b.TrustBridge && a.GuestToGuest == b.GuestToGuest && slices.Equal(a.HostPorts, b.HostPorts)
}

// merge puts the VMs of one file into the applied spec. A VM that runs and
// that its file no longer declares stays until it is stopped. A VM that does
// not run may move to another file; nobody but root takes over a VM of another
// user.
func merge(caller Caller, request UpRequest, applied Applied, used []tenant, whole bool) (Applied, error) {
	if !sameGround(applied.Host, request.Host) {
		if err := mayMove(request.Origin, used, whole); err != nil {
			return Applied{}, err
		}
	}
	if err := notTaken(caller, request, applied, used); err != nil {
		return Applied{}, err
	}
	merged := Applied{Host: request.Host, Origins: map[string]string{}, Owners: map[string]spec.ID{}, Gone: maps.Clone(applied.Gone)}
	merged.Host.VMs = slices.Clone(request.Host.VMs)
	for _, vm := range request.Host.VMs {
		merged.Origins[vm.Name], merged.Owners[vm.Name] = request.Origin, spec.ID{UID: caller.UID, GID: caller.GID}
		delete(merged.Gone, vm.Name)
	}
	for _, vm := range applied.Host.VMs {
		origin, runs := applied.Origins[vm.Name], slices.ContainsFunc(used, func(t tenant) bool { return t.name == vm.Name })
		_, here := merged.Origins[vm.Name]
		mine := caller.mayUse(vm) && (origin == request.Origin || !runs)
		switch {
		case here && !mine:
			return Applied{}, fmt.Errorf("%w: VM %s is declared by %s already: choose another name", ErrConflict, vm.Name, origin)
		case here:
		case origin == request.Origin && mine, !runs && gone(origin):
			merged.forget(vm, origin)
		default:
			merged.Host.VMs = append(merged.Host.VMs, vm)
			merged.Origins[vm.Name], merged.Owners[vm.Name] = origin, applied.Owners[vm.Name]
		}
	}
	slices.SortFunc(merged.Host.VMs, func(a, b spec.VM) int { return strings.Compare(a.Name, b.Name) })
	return merged, problems(merged.Host, func(name string) string {
		if origin := merged.Origins[name]; origin != request.Origin {
			return origin
		}
		return ""
	})
}

// notTaken refuses names of VMs that run though nothing declares them any more:
// what is done to a VM of that name would be done to theirs.
func notTaken(caller Caller, request UpRequest, applied Applied, used []tenant) error {
	for _, t := range used {
		_, wanted := request.Host.VM(t.name)
		_, declared := applied.Host.VM(t.name)
		if !wanted || declared || t.vm == nil || t.origin == request.Origin && caller.mayUse(*t.vm) {
			continue
		}
		return fmt.Errorf("%w: the VM %s of %s still runs: `bield down %s` first, or choose another name", ErrConflict, t.name, t.origin, t.name)
	}
	return nil
}

// mayMove lets the host's own settings change where no VM is in the way; an
// apply stops those of its own file.
func mayMove(origin string, used []tenant, whole bool) error {
	var inTheWay []string
	for _, t := range used {
		if !whole || t.origin != origin {
			inTheWay = append(inTheWay, t.name)
		}
	}
	switch {
	case len(inTheWay) == 0:
		return nil
	case whole:
		return fmt.Errorf("%w: %s changes the host's own settings while VMs of other files run: `bield down %s` first", ErrConflict, origin, strings.Join(inTheWay, " "))
	default:
		return fmt.Errorf("%w: %s changes the host's own settings while VMs run: `bield apply` stops and starts them, or `bield down %s` first", ErrConflict, origin, strings.Join(inTheWay, " "))
	}
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
