package main

import (
	"context"
	"fmt"
	"strings"

	"bield/internal/reconcile"
	"bield/internal/spec"
)

// report tells the service manager that the daemon serves, and how many VMs
// stand how, until stop is called.
func (d *daemon) report(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	changed, last := d.engine.Changed(), d.status()
	d.tell(d.manager.Ready(last))
	go func() {
		defer close(done)
		for {
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
			changed = d.engine.Changed()
			if now := d.status(); now != last {
				d.tell(d.manager.Status(now))
				last = now
			}
		}
	}()
	return func() { cancel(); <-done }
}

// tell notes that the service manager could not be told: nothing more can be
// done about it here.
func (d *daemon) tell(err error) {
	if err != nil {
		d.log.Warn("the service manager was not told", "error", err)
	}
}

// status counts the VMs by their states, those that are down left out.
func (d *daemon) status() string {
	states := []spec.State{spec.StateRunning, spec.StateStarting, spec.StateStopping, spec.StateRestarting, spec.StateFailed}
	count := map[spec.State]int{}
	for _, vm := range d.engine.List(reconcile.Caller{}) {
		count[vm.State]++
	}
	var parts []string
	for _, s := range states {
		if count[s] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count[s], s))
		}
	}
	if len(parts) == 0 {
		return "no VM runs"
	}
	return "VMs: " + strings.Join(parts, ", ")
}
