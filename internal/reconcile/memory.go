package reconcile

import (
	"maps"
	"slices"

	"bield/internal/process"
)

// held is what a VM's processes hold, in bytes.
type held struct{ vmm, virtiofsd uint64 }

// held says what the VMs hold of which processes run. Guest memory, which all
// of a VM's processes share, counts once: as the VMM's.
func (e *Engine) held() map[string]held {
	e.mu.Lock()
	records := map[string]Record{}
	for name, m := range e.vms {
		if m.record != nil {
			records[name] = m.record.clone()
		}
	}
	e.mu.Unlock()
	var ids []process.ID
	for r := range maps.Values(records) {
		ids = slices.AppendSeq(ids, maps.Keys(r.processes()))
	}
	memory, err := process.MemoryOf(ids)
	if err != nil {
		e.Log.Warn("read the memory of VMs", "error", err)
	}
	all := map[string]held{}
	for name, r := range records {
		var sum held
		for id, tag := range r.processes() {
			m, alive := memory[id]
			switch {
			case !alive:
			case tag == "":
				sum.vmm += m.RSS
			default:
				sum.virtiofsd += m.RSS - m.Shared
			}
		}
		if sum != (held{}) {
			all[name] = sum
		}
	}
	return all
}

// processes lists the processes of a VM: each virtiofsd by its tag, the VMM
// by "".
func (r Record) processes() map[process.ID]string {
	ids := map[process.ID]string{}
	if r.VMM != nil {
		ids[*r.VMM] = ""
	}
	for _, s := range r.Shares {
		if s.Process != nil {
			ids[*s.Process] = s.Tag
		}
	}
	return ids
}
