package reconcile

import (
	"context"
	"fmt"
	"sync"

	"bield/internal/plan"
	"bield/internal/spec"
)

// wave changes several VMs so that none is in another's way: all are looked at
// first, then those stop that must, then they start. In between, each may be
// changed by others, and is what is declared in the end.
type wave struct {
	e        *Engine
	accepted accepted
	order    order
	show     func(Progress)

	failed  failures
	mu      sync.Mutex
	stopped map[string]bool
}

// roll changes the VMs. With together, nothing is stopped unless all can be
// started again: what they stand on goes.
func (w *wave) roll(ctx context.Context, names []string, together bool) error {
	defer w.e.dropClaims(names...)
	_ = each(names, func(name string) error { return w.failed.note(name, w.check(ctx, name)) })
	if err := w.failed.all(names); err != nil && together {
		return fmt.Errorf("%w\nnothing was stopped for it", err)
	}
	_ = each(names, func(name string) error {
		if w.failed.has(name) {
			return nil
		}
		return w.failed.note(name, w.clear(ctx, name))
	})
	_ = each(names, func(name string) error {
		if w.failed.has(name) {
			return nil
		}
		own := ctx
		if w.wasStopped(name) {
			own = context.WithoutCancel(ctx) // half a restart serves nobody
		}
		return w.failed.note(name, w.realize(own, name))
	})
	return w.failed.all(names)
}

// visit works on a VM unless a later request has removed it.
func (w *wave) visit(ctx context.Context, name string, work func(context.Context, *job) error) error {
	if !w.e.isDeclared(name) {
		return nil
	}
	return w.e.withVM(ctx, w.e.queue(name, false), w.show, work)
}

// check says whether a VM that must stop could be started again.
func (w *wave) check(ctx context.Context, name string) error {
	return w.visit(ctx, name, func(ctx context.Context, j *job) error {
		c, err := w.compare(ctx, j)
		if err != nil || c.Action != plan.Restart {
			return err
		}
		return j.ready(ctx, w.order)
	})
}

// compare says what a VM takes; nothing if it is not to run.
func (w *wave) compare(ctx context.Context, j *job) (plan.Change, error) {
	if !w.e.applyRuns(j.vm) {
		return plan.Change{}, nil
	}
	return j.compare(ctx, w.order)
}

// clear takes away what of a VM must go before it can be what it should be.
func (w *wave) clear(ctx context.Context, name string) error {
	return w.visit(ctx, name, func(ctx context.Context, j *job) error {
		c, err := w.compare(ctx, j)
		switch {
		case err != nil:
			return err
		case c.Action == plan.Restart:
			w.note(name)
			return j.takeAway(ctx)
		case c.Action == "" && !w.e.applyRuns(j.vm):
			return w.e.clearLeftover(ctx, j)
		}
		return nil
	})
}

// clearLeftover removes what is left of a VM that is not to run.
func (e *Engine) clearLeftover(ctx context.Context, j *job) error {
	e.mu.Lock()
	there := j.m.record != nil
	e.mu.Unlock()
	if !there {
		return nil
	}
	e.setState(j.m, spec.StateStopping, "")
	if err := e.removeVM(ctx, j.m, j.show); err != nil {
		e.setState(j.m, spec.StateFailed, err.Error())
		return err
	}
	e.setState(j.m, spec.StateDown, "")
	return nil
}

// realize makes a VM run that should.
func (w *wave) realize(ctx context.Context, name string) error {
	return w.visit(ctx, name, func(ctx context.Context, j *job) error {
		if !w.e.applyRuns(j.vm) || w.e.stoppedSince(name, w.accepted) {
			return nil
		}
		return j.bring(ctx, w.order)
	})
}

func (w *wave) note(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped == nil {
		w.stopped = map[string]bool{}
	}
	w.stopped[name] = true
}

func (w *wave) wasStopped(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stopped[name]
}
