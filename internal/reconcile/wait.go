package reconcile

import (
	"context"
	"fmt"
	"slices"

	"bield/internal/spec"
)

// Wait returns once a VM is down or has failed, and how it stands then. It goes
// on while the VM waits to be started again.
func (e *Engine) Wait(ctx context.Context, caller Caller, name string) (spec.VMStatus, error) {
	for {
		if _, err := e.user(caller, name); err != nil {
			return spec.VMStatus{}, err
		}
		status, changed := e.statusOf(name)
		if status.State == spec.StateDown || status.State == spec.StateFailed {
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

// statusOf is how a VM stands, and what is closed when one has changed.
func (e *Engine) statusOf(name string) (spec.VMStatus, <-chan struct{}) {
	changed := e.Changed()
	list := e.List()
	if i := slices.IndexFunc(list, func(s spec.VMStatus) bool { return s.Name == name }); i >= 0 {
		return list[i], changed
	}
	return spec.VMStatus{Name: name, State: spec.StateDown}, changed
}
