package reconcile

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"bield/internal/cgroup"
	"bield/internal/hypervisor"
	"bield/internal/obstacles"
	"bield/internal/process"
	"bield/internal/spec"
	"bield/internal/state"
)

// Record is the note of one VM's resources, written before each of them is
// made and removed after the last is gone.
type Record struct {
	VM spec.VM `json:"vm"`
	// Host is what the host itself was when the VM was started; it has no VMs.
	Host   spec.Host `json:"host"`
	Origin string    `json:"origin"`
	UID    uint32    `json:"uid"` // of the VMM
	VCPU   int       `json:"vcpu"`
	// Hypervisor is what it runs on.
	Hypervisor hypervisor.Choice `json:"hypervisor"`
	Image      string            `json:"image,omitempty"` // digest
	// Group is the control group of its processes, empty on hosts that have none.
	Group cgroup.Group `json:"group,omitempty"`
	// Firewall and Tap say that the resource may exist.
	Firewall bool          `json:"firewall,omitempty"`
	Tap      bool          `json:"tap,omitempty"`
	Shares   []ShareRecord `json:"shares,omitempty"`
	VMM      *process.ID   `json:"vmm,omitempty"`
	HostKey  string        `json:"hostKey,omitempty"` // public line
	// Authorized lists the host users whose bield key opens the guest.
	Authorized []uint32   `json:"authorized,omitempty"`
	Ready      *time.Time `json:"ready,omitempty"`
	// Stopping says that the VM is being taken away, by whatever began it.
	Stopping bool `json:"stopping,omitempty"`
}

// ShareRecord is the note of one virtiofsd; Process is nil until it runs.
type ShareRecord struct {
	Tag     string      `json:"tag"`
	Process *process.ID `json:"process,omitempty"`
}

// queues is how many the VM's tap has: QEMU takes one, cloud-hypervisor as many
// as the guest has CPUs.
func (r Record) queues() int {
	if r.Hypervisor.Kind == spec.HypervisorCloudHypervisor {
		return r.VCPU
	}
	return 1
}

// clone is a copy that shares nothing with r.
func (r Record) clone() Record {
	r.Shares = slices.Clone(r.Shares)
	r.Authorized = slices.Clone(r.Authorized)
	r.Group = slices.Clone(r.Group)
	return r
}

// share finds the record of one share, or makes it.
func (r *Record) share(tag string) *ShareRecord {
	for i := range r.Shares {
		if r.Shares[i].Tag == tag {
			return &r.Shares[i]
		}
	}
	r.Shares = append(r.Shares, ShareRecord{Tag: tag})
	return &r.Shares[len(r.Shares)-1]
}

func (r *Record) dropShare(tag string) {
	kept := r.Shares[:0]
	for _, s := range r.Shares {
		if s.Tag != tag {
			kept = append(kept, s)
		}
	}
	r.Shares = kept
}

// HostRecord notes what was changed on the host itself, and what it was.
type HostRecord struct {
	Bridge  string       `json:"bridge,omitempty"`
	Address netip.Prefix `json:"address,omitzero"`
	// Forwarding is what ip_forward was before bield set it.
	Forwarding *bool `json:"forwarding,omitempty"`
	Firewall   bool  `json:"firewall,omitempty"`
	// Egress is the process that serves guests' names.
	Egress *EgressRecord `json:"egress,omitempty"`
	// Passages are ways for guests that bield has opened in other firewalls.
	Passages []obstacles.Opening `json:"passages,omitempty"`
}

func (h HostRecord) empty() bool { return reflect.ValueOf(h).IsZero() }

// saveHost writes the host's record, or removes it when it says nothing.
func saveHost(run state.Run, h HostRecord) error {
	if h.empty() {
		return state.Remove(run.HostRecord())
	}
	return state.Write(run.HostRecord(), h, 0o600)
}

func loadHost(run state.Run) (HostRecord, error) {
	var h HostRecord
	err := state.Read(run.HostRecord(), &h)
	if errors.Is(err, fs.ErrNotExist) {
		return HostRecord{}, nil
	}
	return h, err
}

// loadRecords reads every VM's record. One that cannot be read is left where it
// is, for a person to look at.
func loadRecords(run state.Run, log *slog.Logger) ([]Record, error) {
	entries, err := os.ReadDir(run.Records())
	if err != nil {
		return nil, fmt.Errorf("read records: %w", err)
	}
	var records []Record
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".json") {
			continue
		}
		var r Record
		if err := state.Read(filepath.Join(run.Records(), entry.Name()), &r); err != nil {
			log.Error("read a record", "error", err)
			continue
		}
		if r.Hypervisor.Kind == "" { // of a version that had QEMU alone
			r.Hypervisor = hypervisor.Choice{Kind: spec.HypervisorQEMU, Why: "QEMU, by an earlier version of bield"}
		}
		records = append(records, r)
	}
	return records, nil
}

// Applied is the one applied spec of a host, with the file that each VM comes
// from.
type Applied struct {
	Host    spec.Host         `json:"host"`
	Origins map[string]string `json:"origins"`
	// Owners are those who declared the VMs: what they may share, VMs get.
	Owners map[string]spec.ID `json:"owners"`
	// Gone are VMs that are no longer declared and whose state folder stays.
	Gone map[string]GoneVM `json:"gone,omitempty"`
}

// GoneVM is what is known of a VM that is no longer declared.
type GoneVM struct {
	Origin string `json:"origin"`
	UID    uint32 `json:"uid"` // of its user
}

// forget notes that a VM is no longer declared.
func (a *Applied) forget(vm spec.VM, origin string) {
	if a.Gone == nil {
		a.Gone = map[string]GoneVM{}
	}
	if len(a.Gone) < spec.MaxVMs {
		a.Gone[vm.Name] = GoneVM{Origin: origin, UID: vm.User.UID}
	}
}

// statePointer is how a daemon finds the state folder again.
type statePointer struct {
	StateDir string `json:"stateDir"`
}

// loadApplied reads the applied spec of this run directory; a host to which
// nothing was applied yet has an empty one.
func loadApplied(run state.Run) (Applied, error) {
	applied := Applied{Origins: map[string]string{}, Owners: map[string]spec.ID{}}
	dir, err := findStateDir(run)
	if err != nil || dir == "" {
		return applied, err
	}
	err = state.Read(state.Folder{Dir: dir}.Applied(), &applied)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return applied, err
}

// findStateDir reads the pointer in the run directory. A host's own bield, that
// of the default run directory, finds its state folder after a reboot too: by a
// second pointer in the default state folder, or it is that one.
func findStateDir(run state.Run) (string, error) {
	pointers := []string{run.StatePointer()}
	if run.Dir == state.DefaultRunDir {
		pointers = append(pointers, state.Folder{Dir: spec.DefaultStateDir}.Pointer())
	}
	for _, path := range pointers {
		var p statePointer
		if err := state.Read(path, &p); err == nil {
			return p.StateDir, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	if run.Dir == state.DefaultRunDir {
		return spec.DefaultStateDir, nil
	}
	return "", nil
}

func saveApplied(run state.Run, applied Applied) error {
	folder := state.Folder{Dir: applied.Host.StateDir}
	if err := folder.Make(); err != nil {
		return err
	}
	if err := state.Write(folder.Applied(), applied, 0o600); err != nil {
		return err
	}
	pointer := statePointer{StateDir: folder.Dir}
	if run.Dir == state.DefaultRunDir {
		usual := state.Folder{Dir: spec.DefaultStateDir}
		if err := errors.Join(usual.Make(), state.Write(usual.Pointer(), pointer, 0o600)); err != nil {
			return err
		}
	}
	return state.Write(run.StatePointer(), pointer, 0o600)
}
