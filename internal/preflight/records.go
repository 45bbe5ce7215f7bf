package preflight

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"bield/internal/process"
	"bield/internal/state"
)

// record is what of a VM's record is needed here: see reconcile.Record.
type record struct {
	VMM    *process.ID `json:"vmm"`
	Shares []struct {
		Process *process.ID `json:"process"`
	} `json:"shares"`
}

// records looks for what a daemon left that is no more. What one that runs has
// written down is its own affair.
func (h Host) records(ctx context.Context) Result {
	entries, err := os.ReadDir(h.Run.Records())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ok("none")
	case errors.Is(err, fs.ErrPermission):
		return needsRoot("reading " + h.Run.Records())
	case err != nil:
		return fail(err.Error(), "look at "+h.Run.Records())
	}
	var found findings
	for _, e := range entries {
		if name, is := strings.CutSuffix(e.Name(), ".json"); is {
			found.add(name, filepath.Join(h.Run.Records(), e.Name()))
		}
	}
	// Left out where the host itself was not changed.
	var host map[string]any
	if err := state.Read(h.Run.HostRecord(), &host); err != nil && !errors.Is(err, fs.ErrNotExist) {
		found.unreadable = append(found.unreadable, err.Error())
	}
	d := h.Daemon(ctx)
	if d.Err != nil && found.unreadable == nil {
		return skipped("bieldd does not answer, and they are its own affair")
	}
	return found.result(d.Runs)
}

type findings struct {
	alive, stale, unreadable []string
}

func (f *findings) add(name, path string) {
	var r record
	if err := state.Read(path, &r); err != nil {
		f.unreadable = append(f.unreadable, err.Error())
		return
	}
	ids := []*process.ID{r.VMM}
	for _, s := range r.Shares {
		ids = append(ids, s.Process)
	}
	for _, id := range ids {
		if id == nil {
			continue
		}
		if lives, err := process.Lives(*id); lives || err != nil {
			f.alive = append(f.alive, name)
			return
		}
	}
	f.stale = append(f.stale, name)
}

func (f *findings) result(daemon bool) Result {
	const start = "sudo bield ls: it starts bieldd, which "
	switch {
	case f.unreadable != nil:
		return fail(strings.Join(f.unreadable, "\n"), "look at it; if it is of no more use, stop what it speaks of and remove the file")
	case daemon:
		return ok("%d, of which bieldd takes care", len(f.alive)+len(f.stale))
	case f.stale != nil:
		return warn(fmt.Sprintf("of VMs whose processes are gone: %s", strings.Join(f.stale, ", ")), start+"removes what is left of them")
	case f.alive != nil:
		return warn(fmt.Sprintf("VMs run and no bieldd takes care of them: %s", strings.Join(f.alive, ", ")), start+"takes them over")
	}
	return ok("none")
}
