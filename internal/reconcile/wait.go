package reconcile

import (
	"context"
	"fmt"

	"bield/internal/spec"
)

// Wait returns once a VM is down or has failed, and how it stands then. It goes
// on while the VM waits to be started again.
func (e *Engine) Wait(ctx context.Context, caller Caller, name string) (spec.VMStatus, error) {
	for {
		if _, err := e.user(caller, name); err != nil {
			return spec.VMStatus{}, err
		}
		status, over, changed := e.standing(name)
		if over {
			return status, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return status, ctx.Err()
		case <-e.closing:
			return status, fmt.Errorf("%w: bieldd ends", ErrConflict)
		}
	}
}

// Changed is closed when the state of a VM changes next.
func (e *Engine) Changed() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed
}

// standing is how a VM stands, whether it neither runs nor is about to, and what
// is closed when one has changed.
func (e *Engine) standing(name string) (status spec.VMStatus, over bool, changed <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	m := e.vms[name]
	vm, declared := e.applied.Host.VM(name)
	switch {
	case m == nil && !declared:
		return spec.VMStatus{Name: name, State: spec.StateDown}, true, e.changed
	case m == nil:
		return e.status(vm), true, e.changed
	case !declared && m.record != nil:
		vm = m.record.VM
	case !declared:
		vm = spec.VM{Name: name}
	}
	status = e.status(vm)
	waits := m.retry != nil || m.pending > 0 || len(m.queue) > 0
	return status, !waits && (status.State == spec.StateDown || status.State == spec.StateFailed), e.changed
}
