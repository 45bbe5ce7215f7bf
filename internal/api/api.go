package api

import (
	"time"

	"bield/internal/spec"
)

// Version is raised when an older client or daemon would misread the other.
const Version = 1

// Limits on what a client may send.
const (
	// MaxRequestBytes bounds a request's body: a host with a thousand VMs
	// stays well below.
	MaxRequestBytes = 4 << 20
	// MaxErrorBytes bounds what a client reads of a refused call's answer.
	MaxErrorBytes = 1 << 20
	// MaxStreamBytes bounds what a client reads of a stream: an image build
	// tells some hundred kilobytes.
	MaxStreamBytes = 256 << 20
)

// Paths of the API. {name} is a VM, {digest} an image.
const (
	PathVersion     = "/v1/version"
	PathUp          = "/v1/up"
	PathStart       = "/v1/start"
	PathDown        = "/v1/down"
	PathPlan        = "/v1/plan"
	PathApply       = "/v1/apply"
	PathWait        = "/v1/vms/{name}/wait"
	PathVMs         = "/v1/vms"
	PathVM          = "/v1/vms/{name}"
	PathAccess      = "/v1/vms/{name}/access"
	PathVerify      = "/v1/vms/{name}/verify"
	PathLogs        = "/v1/vms/{name}/logs"
	PathEgressCheck = "/v1/vms/{name}/egress/check"
	PathEgressLog   = "/v1/vms/{name}/egress/log"
	PathImages      = "/v1/images"
	PathImage       = "/v1/images/{digest}"
	PathImagesPrune = "/v1/images/prune"
	PathEvents      = "/v1/events"
	// PathMetrics is where Prometheus looks by itself.
	PathMetrics = "/metrics"
)

// VersionReply says who answers.
type VersionReply struct {
	API     int    `json:"api"`
	Version string `json:"version"`
	PID     int    `json:"pid"`
}

// UpRequest hands over a checked host and asks for some of its VMs to run.
type UpRequest struct {
	Host spec.Host `json:"host"`
	// Origin is the absolute path of the file that Host was read from.
	Origin string   `json:"origin"`
	Names  []string `json:"names"`
	// Force starts VMs for which the host has not enough.
	Force bool `json:"force,omitempty"`
}

// StartRequest asks for VMs as they were applied last; no name means all that
// the caller may use.
type StartRequest struct {
	Names []string `json:"names"`
	Force bool     `json:"force,omitempty"`
	// Restart stops those that run first.
	Restart bool `json:"restart,omitempty"`
}

// ApplyRequest hands over a checked host to be brought about.
type ApplyRequest struct {
	Host   spec.Host `json:"host"`
	Origin string    `json:"origin"`
	Force  bool      `json:"force,omitempty"`
	// Purge names VMs whose state folders go, if the file no longer declares them:
	// of PlanReply.Purgeable, those that somebody agreed to.
	Purge []string `json:"purge,omitempty"`
}

// PlanReply is what an apply would do.
type PlanReply struct {
	// Before are steps of the host that come between stops and starts, After
	// those when no VM is left.
	Before []Step `json:"before,omitempty"`
	After  []Step `json:"after,omitempty"`
	// Changes are in the order of the VMs' names.
	Changes   []Change `json:"changes"`
	Unchanged []string `json:"unchanged,omitempty"`
	// Purgeable names VMs that the file no longer declares and that have a
	// state folder still.
	Purgeable []string `json:"purgeable,omitempty"`
}

// Steps counts what there is to do.
func (r PlanReply) Steps() int {
	n := len(r.Before) + len(r.After)
	for _, c := range r.Changes {
		n += len(c.Stop) + len(c.Start)
	}
	return n
}

// Change is what happens to one VM.
type Change struct {
	VM string `json:"vm"`
	// Action is "start", "restart", "remove", "update" or "nothing".
	Action  string   `json:"action"`
	Reasons []string `json:"reasons,omitempty"`
	// Pending is what would need a restart that the VM's spec forbids.
	Pending []string `json:"pending,omitempty"`
	Stop    []Step   `json:"stop,omitempty"`
	Start   []Step   `json:"start,omitempty"`
}

// Step is one named change to the host.
type Step struct {
	Kind   string `json:"kind"`
	Share  string `json:"share,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// DownRequest asks for VMs to be stopped.
type DownRequest struct {
	Names []string `json:"names"`
	// Force skips the guest's own shutdown.
	Force bool `json:"force,omitempty"`
}

// BuildRequest asks for an image.
type BuildRequest struct {
	Image spec.Image `json:"image"`
	// Disk asks for its EROFS disk as well.
	Disk bool `json:"disk,omitempty"`
}

// PruneRequest names no image: those that no running VM and no VM of the
// applied spec uses are removed.
type PruneRequest struct{}

// Event is one line of a stream.
type Event struct {
	VM string `json:"vm,omitempty"`
	// Step is the step's name, as `bield plan` prints it.
	Step string `json:"step,omitempty"`
	// State is "start", "progress", "done" or "failed".
	State   string `json:"state,omitempty"`
	Message string `json:"message,omitempty"`
	// Detail is the newest small thing within Message.
	Detail  string        `json:"detail,omitempty"`
	Elapsed time.Duration `json:"elapsed,omitempty"`
	// Done marks the last event; Error is then "" or why the call failed.
	Done  bool   `json:"done,omitempty"`
	Error *Error `json:"error,omitempty"`
}

// Error is a failed call: what went wrong, and what to do.
type Error struct {
	Message string `json:"message"`
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// VMsReply lists VMs in the order of their names.
type VMsReply struct {
	VMs []spec.VMStatus `json:"vms"`
}

// WaitReply is how a VM stands that no longer runs.
type WaitReply struct {
	VM spec.VMStatus `json:"vm"`
}

// Inspection is all that is known of one VM.
type Inspection = spec.Inspection

// AccessReply is what OpenSSH needs to reach a guest.
type AccessReply struct {
	Address    string `json:"address"` // IP
	User       string `json:"user"`
	Alias      string `json:"alias"` // the name its host key is pinned under
	Identity   string `json:"identity"`
	KnownHosts string `json:"knownHosts"`
}

// VerifyReply is what came of attempts to break out of a VM, in their order.
type VerifyReply struct {
	VM       string    `json:"vm"`
	Attempts []Attempt `json:"attempts"`
}

// Attempt is one of them.
type Attempt struct {
	Category string `json:"category"`
	Attempt  string `json:"attempt"`
	Expected string `json:"expected"`
	Got      string `json:"got"`
	// Hole says that it came through although it should not.
	Hole bool `json:"hole"`
	// Unchecked says that it was not tried, or that what came of it can't be seen.
	Unchecked bool `json:"unchecked,omitempty"`
}

// Image is one image of the store.
type Image struct {
	Digest   string    `json:"digest"`
	Made     time.Time `json:"made"`
	Bytes    int64     `json:"bytes"`
	Suite    string    `json:"suite"`
	Kernel   string    `json:"kernel"`
	Packages []string  `json:"packages,omitempty"`
	// UsedBy names VMs.
	UsedBy []string `json:"usedBy,omitempty"`
}

// ImagesReply lists images, newest first.
type ImagesReply struct {
	Images []Image `json:"images"`
}

// PruneReply says what was removed.
type PruneReply struct {
	Removed []Image `json:"removed"`
}
