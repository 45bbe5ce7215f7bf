package reconcile

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"bield/internal/spec"
)

// minStateBytes is what the state folder must have left for a VM: its keys and
// the two files of its console's log.
const minStateBytes = 4 << 20

// claim waits for a core to start on and takes the VM's memory from what others
// may have, until it runs: from then on what it really holds counts. With force
// nothing but its address is asked for.
func (j *job) claim(ctx context.Context, force bool) (release func(), err error) {
	e := j.e
	if !force {
		if err := stateHasRoom(j.host.StateDir); err != nil {
			return nil, err
		}
	}
	select {
	case e.starts <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	holds := e.held()
	e.mu.Lock()
	defer e.mu.Unlock()
	if err = j.addressIsFree(); err == nil && !force {
		err = j.memoryFits(holds)
	}
	if err != nil {
		<-e.starts
		return nil, err
	}
	e.claims[j.vm.Name] = j.vm.MemoryMiB
	return func() {
		<-e.starts
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.claims, j.vm.Name)
	}, nil
}

// keepMemory keeps what the VM, which runs, will want when it is started again.
// Others may make way for its address yet.
func (j *job) keepMemory(force bool) error {
	if !force {
		if err := stateHasRoom(j.host.StateDir); err != nil {
			return err
		}
	}
	holds := j.e.held()
	j.e.mu.Lock()
	defer j.e.mu.Unlock()
	if !force {
		if err := j.memoryFits(holds); err != nil {
			return err
		}
	}
	j.e.claims[j.vm.Name] = j.vm.MemoryMiB
	return nil
}

// dropClaims gives back what was kept.
func (e *Engine) dropClaims(names ...string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, name := range names {
		delete(e.claims, name)
	}
}

// addressIsFree refuses what a VM has that runs and is no longer declared, so
// that the spec knows nothing of it. Needs e.mu.
func (j *job) addressIsFree() error {
	for _, name := range slices.Sorted(maps.Keys(j.e.vms)) {
		r := j.e.vms[name].record
		if r == nil || name == j.vm.Name {
			continue
		}
		if r.VM.IP == j.vm.IP || r.VM.MAC == j.vm.MAC || r.VM.Tap() == j.vm.Tap() {
			return fmt.Errorf("%w: the VM %s, which runs, has the address %s (%s): `bield down %s` first", ErrConflict, name, r.VM.IP, r.VM.MAC, name)
		}
	}
	return nil
}

// memoryFits needs e.mu.
func (j *job) memoryFits(holds map[string]held) error {
	have, err := readMemory()
	if err != nil {
		return err
	}
	u := j.memoryUse(holds)
	if ratio := j.host.MemoryOvercommit; ratio > 0 {
		return u.withinCeilings(j.vm, j.host, have)
	}
	return u.withinHeld(j.vm, j.host, have)
}

// memoryUse is what the other VMs have of the host's memory, in MiB.
type memoryUse struct {
	held     int // by those that run
	own      int // by this one, given back before it is started again
	claimed  int // by those that are being started
	ceilings int // what they may all have
}

// memoryUse needs e.mu.
func (j *job) memoryUse(holds map[string]held) memoryUse {
	var u memoryUse
	mebibytes := func(name string) int { return int(holds[name].vmm >> 20) }
	for name, m := range j.e.vms {
		if m.record == nil {
			continue
		}
		if name == j.vm.Name {
			u.own = mebibytes(name)
			continue
		}
		u.ceilings += m.record.VM.MemoryMiB
		if _, starting := j.e.claims[name]; !starting {
			u.held += mebibytes(name)
		}
	}
	for name, n := range j.e.claims {
		if name == j.vm.Name {
			continue
		}
		m := j.e.vms[name]
		if m == nil || m.record == nil {
			u.claimed += n
			u.ceilings += n
			continue
		}
		// What it holds already is not available any more.
		u.claimed += max(0, n-mebibytes(name))
		u.ceilings += max(0, n-m.record.VM.MemoryMiB)
	}
	return u
}

func (u memoryUse) withinCeilings(vm spec.VM, host spec.Host, have memory) error {
	limit := int(host.MemoryOvercommit * float64(have.total-host.MemoryReserveMiB))
	if u.ceilings+vm.MemoryMiB <= limit {
		return nil
	}
	return fmt.Errorf("%w: it may take %d MB and the VMs that run %d, more than the %d MB that may be promised: %v times (memoryOvercommit) the host's %d less %d (memoryReserve); stop a VM, lower `mem`, or use --force",
		ErrConflict, vm.MemoryMiB, u.ceilings, max(0, limit), host.MemoryOvercommit, have.total, host.MemoryReserveMiB)
}

func (u memoryUse) withinHeld(vm spec.VM, host spec.Host, have memory) error {
	left := have.available + u.own - u.claimed - vm.MemoryMiB
	if left >= host.MemoryReserveMiB {
		return nil
	}
	starting := ""
	if u.claimed > 0 {
		starting = fmt.Sprintf(", %d MB are for VMs that are just starting", u.claimed)
	}
	return fmt.Errorf("%w: it may take %d MB; of the host's %d MB %d are available (the VMs that run hold %d)%s, and %d MB must be left (memoryReserve): stop a VM, lower `mem`, or use --force",
		ErrConflict, vm.MemoryMiB, have.total, have.available+u.own, u.held, starting, host.MemoryReserveMiB)
}

// memory is the host's, in MiB.
type memory struct{ total, available int }

// readMemory reads /proc/meminfo (proc_meminfo(5)).
func readMemory() (memory, error) {
	var m memory
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return m, fmt.Errorf("read the host's memory: %w", err)
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		kibibytes, err := strconv.Atoi(fields[1])
		switch {
		case err != nil:
		case fields[0] == "MemTotal:":
			m.total = kibibytes >> 10
		case fields[0] == "MemAvailable:":
			m.available = kibibytes >> 10
		}
	}
	return m, lines.Err()
}

// stateHasRoom refuses a state folder that a start would fill.
func stateHasRoom(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look for room in the state folder %s: %w", dir, err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < minStateBytes {
		return fmt.Errorf("%w: the state folder %s has %d KB left, and a VM wants %d for its keys and its console: make room, or use --force",
			ErrConflict, dir, free>>10, minStateBytes>>10)
	}
	return nil
}
