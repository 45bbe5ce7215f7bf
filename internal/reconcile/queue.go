package reconcile

import (
	"context"
	"fmt"
	"slices"
)

// turn is a place in the queue of those who change a VM, or want to know that
// nobody does. Whoever takes turns at several VMs takes them all at once, so that
// any two requests meet in the same order everywhere.
type turn struct {
	m    *machine
	come chan struct{} // closed when it is the first

	// starts says that it is for making the VM run, as it is declared.
	starts bool
	// stopped is why it is not to do so any more. Guarded by Engine.mu.
	stopped error
}

// queueUp is queue. Needs e.mu.
func (e *Engine) queueUp(name string, starts bool) *turn {
	m := e.hold(name)
	t := &turn{m: m, come: make(chan struct{}), starts: starts}
	m.queue = append(m.queue, t)
	if len(m.queue) == 1 {
		close(t.come)
	}
	return t
}

// queue takes a turn.
func (e *Engine) queue(name string, starts bool) *turn {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.queueUp(name, starts)
}

// queueAll takes a turn at each VM, in the order of their names. Needs e.mu.
func (e *Engine) queueAll(names []string, starts bool) []*turn {
	turns := make([]*turn, len(names))
	for i, name := range names {
		turns[i] = e.queueUp(name, starts)
	}
	return turns
}

// acquire waits until nobody else changes a VM.
func (e *Engine) acquire(ctx context.Context, name string) (*turn, error) {
	t := e.queue(name, false)
	return t, e.await(ctx, t)
}

// await waits for a turn, and gives it up when it fails.
func (e *Engine) await(ctx context.Context, t *turn) error {
	select {
	case <-t.come:
		return nil
	default:
	}
	select {
	case <-t.come:
		return nil
	case <-ctx.Done():
		e.leave(t)
		return fmt.Errorf("wait for %s, which is being changed: %w", t.m.name, context.Cause(ctx))
	}
}

// leave ends a turn, whether it has come or not, lets the next come, and tells
// those who wait for that.
func (e *Engine) leave(t *turn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	m := t.m
	first := m.queue[0] == t
	m.queue = slices.DeleteFunc(m.queue, func(other *turn) bool { return other == t })
	if first && len(m.queue) > 0 {
		close(m.queue[0].come)
	}
	e.forgetMachine(m)
	e.stir()
}

// starting says that somebody is about to make the VM run. Needs Engine.mu.
func (m *machine) starting() bool {
	return slices.ContainsFunc(m.queue, func(t *turn) bool { return t.starts })
}

// stopStarts ends what is under way, or waits, to make the VM run. Needs
// Engine.mu.
func (m *machine) stopStarts(why error) {
	if m.cancel != nil {
		m.cancel(why)
	}
	for _, t := range m.queue {
		t.stopped = why
	}
}

// forgetMachine drops what is held of a VM of which there is nothing to hold:
// who may declare VMs could fill the memory with names. Needs e.mu.
func (e *Engine) forgetMachine(m *machine) {
	_, declared := e.applied.Host.VM(m.name)
	if !declared && m.record == nil && m.retry == nil && m.pending == 0 && len(m.queue) == 0 && e.vms[m.name] == m {
		delete(e.vms, m.name)
	}
}
