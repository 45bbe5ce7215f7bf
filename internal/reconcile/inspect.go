package reconcile

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"bield/internal/spec"
	"bield/internal/state"
)

// Inspect says all that is known of one VM. It waits for nobody who changes
// the VM meanwhile.
func (e *Engine) Inspect(caller Caller, name string) (spec.Inspection, error) {
	m, err := e.user(caller, name)
	if err != nil {
		return spec.Inspection{}, err
	}
	i, record := e.look(m)
	i.Processes, i.Limits = processes(record), limits(record)
	i.Files = e.files(name, record)
	return i, nil
}

// look is what memory holds of a VM at one moment.
func (e *Engine) look(m *machine) (i spec.Inspection, record *Record) {
	e.mu.Lock()
	defer e.mu.Unlock()
	vm, declared := e.applied.Host.VM(m.name)
	if declared {
		i.Declared = &vm
	}
	if m.record != nil {
		record = new(m.record.clone())
		i.Running, i.Image = &record.VM, record.Image
		vm = record.VM
	}
	i.Status = e.status(vm)
	i.Origin = i.Status.Origin
	return i, record
}

// processes says which programs of a VM live, the VMM first. One that ends at
// this moment is left out.
func processes(record *Record) []spec.Process {
	list := []spec.Process{}
	if record == nil {
		return list
	}
	for id, tag := range record.processes() {
		uid, memory, err := id.Usage()
		if err != nil {
			continue
		}
		p := spec.Process{Program: "vmm", PID: id.PID, UID: uid, RSS: memory.RSS, PSS: memory.PSS}
		if tag != "" {
			p.Program, p.Share = "virtiofsd", tag
		}
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b spec.Process) int { return cmp.Compare(a.Share, b.Share) })
	return list
}

// files lists the files of a VM; those of a run only while it has a record.
func (e *Engine) files(name string, record *Record) spec.Files {
	folder := state.Folder{Dir: e.host().StateDir}
	f := spec.Files{Console: folder.Console(name), State: folder.VM(name)}
	if record == nil {
		return f
	}
	f.Record, f.Run, f.KnownHosts = e.Run.Record(name), e.Run.VM(name), e.Run.KnownHosts(name)
	f.Sockets, f.Logs = map[string]string{}, map[string]string{}
	entries, err := os.ReadDir(f.Run)
	if err != nil {
		return f
	}
	for _, entry := range entries {
		what, kind := strings.TrimSuffix(entry.Name(), filepath.Ext(entry.Name())), filepath.Ext(entry.Name())
		if tag, ok := strings.CutPrefix(what, "share-"); ok {
			what = "share " + tag
		}
		switch kind {
		case ".sock":
			f.Sockets[what] = filepath.Join(f.Run, entry.Name())
		case ".log":
			f.Logs[what] = filepath.Join(f.Run, entry.Name())
		}
	}
	return f
}
