package reconcile

import (
	"errors"
	"io/fs"
	"maps"

	"bield/internal/spec"
	"bield/internal/state"
)

// Fate is what is to become of a VM whether a daemon lives or not. It is gone
// after a reboot: then only `autostart` counts.
type Fate struct {
	// Run says that the VM was started and not stopped since.
	Run bool `json:"run"`
	// Failure is why it failed, until it is started or stopped.
	Failure string `json:"failure,omitempty"`
	// Restarts counts how often it was started again after it had ended by
	// itself, since it was last asked to start.
	Restarts int `json:"restarts,omitempty"`
}

func loadFates(run state.Run) (map[string]Fate, error) {
	fates := map[string]Fate{}
	err := state.Read(run.Fates(), &fates)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return fates, err
}

// fate is what is noted of a VM; ok is false where nothing is.
func (e *Engine) fate(name string) (f Fate, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f, ok = e.fates[name]
	return f, ok
}

// setFate edits the note. A disk that is full costs no more than what a later
// daemon knows.
func (e *Engine) setFate(name string, edit func(*Fate)) {
	e.fateMu.Lock()
	defer e.fateMu.Unlock()
	e.mu.Lock()
	f, known := e.fates[name]
	was := f
	edit(&f)
	vm, _ := e.applied.Host.VM(name)
	says := f != (Fate{}) || vm.Autostart
	if says {
		e.fates[name] = f
	} else {
		delete(e.fates, name)
	}
	all := maps.Clone(e.fates)
	e.mu.Unlock()
	if says != known || f != was {
		e.saveFates(all)
	}
}

// dropFate forgets a VM that is no longer declared.
func (e *Engine) dropFate(name string) {
	e.fateMu.Lock()
	defer e.fateMu.Unlock()
	e.mu.Lock()
	delete(e.fates, name)
	all := maps.Clone(e.fates)
	e.mu.Unlock()
	e.saveFates(all)
}

// saveFates writes what is noted, or removes the file when that is nothing. It
// needs e.fateMu.
func (e *Engine) saveFates(all map[string]Fate) {
	var err error
	if len(all) == 0 {
		err = state.Remove(e.Run.Fates())
	} else {
		err = state.Write(e.Run.Fates(), all, 0o600)
	}
	if err != nil {
		e.Log.Warn("note what is to become of VMs", "error", err)
	}
}

// toRun says that a VM should run, as far as its file and what was asked of it
// go.
func (e *Engine) toRun(vm spec.VM) bool {
	f, known := e.fate(vm.Name)
	return f.Run || !known && vm.Autostart
}
