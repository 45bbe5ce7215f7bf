package reconcile

import (
	"context"
	"fmt"
	"time"

	"bield/internal/spec"
)

// maxRestartDelay is the longest pause before a VM that ends again and again is
// started once more, and how long it must have run for the first pause to count
// again.
const maxRestartDelay = 5 * time.Minute

// retry is a start to come of a VM that has ended by itself.
type retry struct {
	timer *time.Timer
	at    time.Time
	// again says that it has run, and is not just to be started.
	again bool
}

// startsAgain says whether a VM's restart policy wants it back after it has
// ended by itself. A VM that is no longer declared stays away.
func (e *Engine) startsAgain(name string, failed bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	vm, declared := e.applied.Host.VM(name)
	switch {
	case !declared || !e.fates[name].Run:
		return false
	case vm.Restart == spec.RestartAlways:
		return true
	default:
		return vm.Restart == spec.RestartOnFailure && failed
	}
}

// restartLater starts a VM after a pause that grows. ran is how long it was
// usable. Needs the VM's turn.
func (e *Engine) restartLater(ctx context.Context, m *machine, why string, ran time.Duration) {
	if ran >= maxRestartDelay {
		e.setFate(m.name, func(f *Fate) { f.Restarts = 0 })
	}
	f, _ := e.fate(m.name)
	delay := restartDelay(e.RestartDelay, f.Restarts)
	e.setFate(m.name, func(f *Fate) { f.Restarts++ })
	if why == "" {
		why = "its guest powered it off"
	}
	// Nobody sees it down in between.
	e.startLater(ctx, m, delay, true)
	e.setState(m, spec.StateRestarting, why)
}

// startLater starts a VM after a pause, unless dropRetry comes first.
func (e *Engine) startLater(ctx context.Context, m *machine, delay time.Duration, again bool) {
	e.dropRetry(m)
	e.mu.Lock()
	defer e.mu.Unlock()
	r := &retry{at: time.Now().Add(delay), again: again}
	r.timer = time.AfterFunc(delay, func() { e.restart(ctx, m, r) })
	m.retry = r
}

// restartDelay doubles with each try.
func restartDelay(first time.Duration, tries int) time.Duration {
	if tries >= 20 || first<<tries > maxRestartDelay {
		return maxRestartDelay
	}
	return first << tries
}

// dropRetry ends the waiting for another start. Needs the VM's turn.
func (e *Engine) dropRetry(m *machine) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if m.retry != nil {
		m.retry.timer.Stop()
		m.retry = nil
	}
}

// restart is what a retry comes to.
func (e *Engine) restart(ctx context.Context, m *machine, r *retry) {
	e.goOn(ctx, func(ctx context.Context) {
		e.acceptMu.Lock() // see startsInTheWay
		t := e.queue(m.name, true)
		e.acceptMu.Unlock()
		err := e.withVM(ctx, t, e.logProgress, func(ctx context.Context, j *job) error {
			if !e.isDue(m, r) {
				return nil // a down or another start came first
			}
			if r.again {
				e.countRestart(m)
			}
			return j.tryAgain(ctx)
		})
		e.forgetRetry(m, r)
		if err != nil {
			e.Log.Warn("start again", "vm", m.name, "error", err)
		}
	})
}

// isDue says that a retry still stands.
func (e *Engine) isDue(m *machine, r *retry) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return m.retry == r
}

// forgetRetry ends a retry that came to nothing: its VM is no longer declared.
func (e *Engine) forgetRetry(m *machine, r *retry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if m.retry == r {
		m.retry = nil
	}
}

// tryAgain starts a VM that is wanted though nobody waits for it; when that
// fails its restart policy says what follows.
func (j *job) tryAgain(ctx context.Context) error {
	err := j.bring(ctx, order{again: true})
	if err == nil || ctx.Err() != nil {
		return err
	}
	if j.e.startsAgain(j.vm.Name, true) {
		j.e.restartLater(ctx, j.m, err.Error(), 0)
		return err
	}
	j.e.fail(j.m, err)
	return err
}

// fail notes that a VM is not what it should be, and why.
func (e *Engine) fail(m *machine, why error) {
	e.setFate(m.name, func(f *Fate) { f.Run, f.Failure = false, why.Error() })
	e.setState(m, spec.StateFailed, why.Error())
}

// goOn runs work of the engine's own, which ends when the engine closes.
func (e *Engine) goOn(ctx context.Context, work func(context.Context)) {
	e.mu.Lock()
	closed := over(e.closing)
	if !closed {
		e.tasks.Add(1)
	}
	e.mu.Unlock()
	if closed {
		return
	}
	go func() {
		defer e.tasks.Done()
		ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
		defer cancel(nil)
		stop := make(chan struct{})
		defer close(stop)
		go func() {
			select {
			case <-e.closing:
				cancel(errClosing)
			case <-stop:
			}
		}()
		work(ctx)
	}()
}

var errClosing = fmt.Errorf("bieldd ends: %w", context.Canceled)
