package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"bield/internal/obstacles"
	"bield/internal/plan"
	"bield/internal/spec"
)

// ErrCutOff says that another firewall of the host drops what guests can't do
// without.
var ErrCutOff = errors.New("another firewall of this host would cut VMs off")

// obstructions says what other firewalls do to the host's guests. What can't be
// read is no obstruction: `bield doctor` tells of it.
func (e *Engine) obstructions(ctx context.Context, host spec.Host) (obstacles.Found, obstacles.Guests, error) {
	external, err := obstacles.Outward(ctx)
	if err != nil {
		return obstacles.Found{}, obstacles.Guests{}, err
	}
	host.VMs = e.host().VMs // a VM's own copy of the host has none
	guests := obstacles.GuestsOf(host, cmp.Or(host.ExternalInterface, external))
	found, err := obstacles.Reader{}.Find(ctx, guests)
	if err != nil && ctx.Err() == nil {
		e.Log.Warn("other firewalls can't be read", "error", err)
		err = nil
	}
	return found, guests, err
}

// openPassage makes a way for guests where another firewall has a place for it,
// and else says what to do. It needs e.hostMu.
func (e *Engine) openPassage(ctx context.Context, host spec.Host) error {
	found, guests, err := e.obstructions(ctx, host)
	if err != nil || !found.Sure() {
		return err
	}
	openings, rest := found.Openings(ctx, guests, e.Run.Owner())
	if i := slices.IndexFunc(rest, obstacles.Obstacle.Sure); i >= 0 {
		return cutOff(rest, guests)
	}
	note := func(r *HostRecord) {
		for _, o := range openings {
			if !slices.Contains(r.Passages, o) {
				r.Passages = append(slices.Clone(r.Passages), o)
			}
		}
	}
	if err := e.changeHost(note); err != nil {
		return err
	}
	for _, o := range openings {
		if err := o.Open(ctx); err != nil {
			return errors.Join(err, cutOff(found.Obstacles, guests))
		}
	}
	if found, _, err = e.obstructions(ctx, host); err == nil && found.Sure() {
		err = cutOff(found.Obstacles, guests)
	}
	return err
}

// showPassages says what stands open until the last VM goes. It needs e.hostMu.
func (e *Engine) showPassages(show func(Progress)) error {
	record, err := e.hostRecord()
	if err != nil {
		return err
	}
	for _, o := range record.Passages {
		show(Progress{Step: string(plan.OpenPassage), State: "note",
			Message: fmt.Sprintf("%s's rules would cut VMs off: they pass by %s while there are any", o.Kind, o)})
	}
	return nil
}

// cutOff names each firewall in the way, and how a person opens it.
func cutOff(found []obstacles.Obstacle, guests obstacles.Guests) error {
	var lines, do []string
	for _, o := range found {
		if !o.Sure() {
			continue
		}
		lines = append(lines, o.String())
		for _, command := range o.Advice(guests) {
			if !slices.Contains(do, command) {
				do = append(do, command)
			}
		}
	}
	return fmt.Errorf("%w: %s. Let guests pass, then start them again:\n  %s", ErrCutOff, strings.Join(lines, "; "), strings.Join(do, "\n  "))
}

// closePassage takes back what was opened. It needs e.hostMu.
func (e *Engine) closePassage(ctx context.Context) error {
	record, err := e.hostRecord()
	if err != nil {
		return err
	}
	for _, o := range record.Passages {
		if err := o.Close(ctx); err != nil {
			return err
		}
	}
	return e.dropHost(func(r *HostRecord) { r.Passages = nil })
}
