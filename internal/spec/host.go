package spec

import (
	"net/netip"
	"slices"
	"time"
)

// Defaults of the host options, as in the NixOS module that bield follows.
const (
	DefaultBridge    = "microbr"
	DefaultSubnet    = "192.168.83"
	DefaultStateDir  = "/var/lib/bield"
	DefaultVCPU      = 8
	DefaultMemoryMiB = 4096
	// DefaultMemoryReserveMiB is what VMs leave of the host's memory.
	DefaultMemoryReserveMiB = 1024
	// DefaultStopTimeout is how long a guest may take to power off before
	// its VMM is killed.
	DefaultStopTimeout = 10 * time.Second
)

// DefaultNameservers are the resolvers a guest uses unless the host names others.
func DefaultNameservers() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("1.1.1.1"), netip.MustParseAddr("8.8.8.8")}
}

// Host is the whole desired state of one host: every default is filled in and
// every path is absolute. It travels as JSON between bield and bieldd and is
// kept in the state folder.
type Host struct {
	Bridge string `json:"bridge"`
	// Subnet is the guests' network in masked form; Gateway is its first address.
	Subnet netip.Prefix `json:"subnet"`
	// ExternalInterface limits NAT to one interface; empty means any but Bridge.
	ExternalInterface string       `json:"externalInterface,omitempty"`
	StateDir          string       `json:"stateDir"`
	Nameservers       []netip.Addr `json:"nameservers"`
	// MemoryReserveMiB is how much of the host's memory must stay available
	// when a VM starts.
	MemoryReserveMiB int `json:"memoryReserve"`
	// MemoryOvercommit, unless 0, is how often the memory beside the reserve
	// may be promised: then the VMs' ceilings count, and not what they hold.
	MemoryOvercommit float64 `json:"memoryOvercommit,omitempty"`
	// TrustBridge opens the host to its guests, as the NixOS module does;
	// HostPorts opens single ports.
	TrustBridge bool       `json:"trustBridge,omitempty"`
	HostPorts   []HostPort `json:"hostPorts,omitempty"`
	// GuestToGuest lets guests reach each other.
	GuestToGuest bool `json:"guestToGuest,omitempty"`
	// VMs are sorted by name.
	VMs []VM `json:"vms"`
}

// Gateway is the host's own address on the bridge: the first of the subnet.
func (h Host) Gateway() netip.Addr { return h.Subnet.Addr().Next() }

// VM returns the VM of that name.
func (h Host) VM(name string) (VM, bool) {
	i := slices.IndexFunc(h.VMs, func(v VM) bool { return v.Name == name })
	if i < 0 {
		return VM{}, false
	}
	return h.VMs[i], true
}

// Names lists the host's VMs in order.
func (h Host) Names() []string {
	names := make([]string, len(h.VMs))
	for i, v := range h.VMs {
		names[i] = v.Name
	}
	return names
}

// HypervisorKind names a driver, or leaves the choice to bield.
type HypervisorKind string

// The values of the option `hypervisor`.
const (
	HypervisorAuto            HypervisorKind = "auto"
	HypervisorQEMU            HypervisorKind = "qemu"
	HypervisorCloudHypervisor HypervisorKind = "cloud-hypervisor"
)

// RestartPolicy says whether a VM that ended by itself is started again.
type RestartPolicy string

// The values of the option `restart`.
const (
	RestartNever     RestartPolicy = "never"
	RestartOnFailure RestartPolicy = "on-failure"
	RestartAlways    RestartPolicy = "always"
)

// InitKind says what runs as PID 1 once the guest is prepared.
type InitKind string

// The values of the option `init`.
const (
	InitBield   InitKind = "bield"
	InitSystemd InitKind = "systemd"
)

// VM is the desired state of one virtual machine.
type VM struct {
	Name string     `json:"name"`
	IP   netip.Addr `json:"ip"`
	// MAC is in lower-case colon form, "02:00:00:01:b8:4b".
	MAC string `json:"mac"`
	// VCPU 0 means unset: see EffectiveVCPU.
	VCPU      int  `json:"vcpu,omitempty"`
	MemoryMiB int  `json:"mem"`
	Autostart bool `json:"autostart,omitempty"`
	// Restart says what follows when the VM ends by itself.
	Restart RestartPolicy `json:"restart"`
	// RestartIfChanged lets an apply restart the VM when it is not what its
	// spec says and can't be changed while it runs.
	RestartIfChanged bool `json:"restartIfChanged"`
	// Shares holds the workspace (mounted at WorkspaceMount) and all others,
	// in the order they are to be mounted. The root and the host keys are
	// bield's own and not listed.
	Shares []Share `json:"shares"`
	// Egress is where the guest may go.
	Egress      Egress         `json:"egress"`
	User        User           `json:"user"`
	Image       Image          `json:"image"`
	Hypervisor  HypervisorKind `json:"hypervisor"`
	Init        InitKind       `json:"init"`
	StoreOnDisk bool           `json:"storeOnDisk,omitempty"`
	StopTimeout time.Duration  `json:"stopTimeout"`
}

// Workspace is the host folder mounted at WorkspaceMount, or "".
func (v VM) Workspace() string {
	for _, s := range v.Shares {
		if s.MountPoint == WorkspaceMount {
			return s.Source
		}
	}
	return ""
}

// EffectiveVCPU is the number of virtual CPUs the VM gets. A number the file
// does not set is DefaultVCPU, but never more than the host's cores without
// KVM, where more vcpus than cores only make a guest slower.
func (v VM) EffectiveVCPU(kvm bool, cores int) int {
	switch {
	case v.VCPU > 0:
		return v.VCPU
	case kvm:
		return DefaultVCPU
	default:
		return max(1, min(DefaultVCPU, cores))
	}
}

// Mount points and tags that bield itself uses.
const (
	WorkspaceMount = "/workspace"
	WorkspaceTag   = "workspace"
	RootTag        = "root"
	HostKeysTag    = "ssh-host-keys"
	HostKeysMount  = "/etc/ssh/host-keys"
	HostKeyFile    = "ssh_host_ed25519_key"
	// MaxTagBytes is the length of the tag field in a virtio-fs device's
	// configuration space (virtio 1.2, section 5.11.4).
	MaxTagBytes = 36
)

// Share is a host folder that a guest mounts over virtiofs.
type Share struct {
	Tag        string `json:"tag"`
	Source     string `json:"source"`
	MountPoint string `json:"mountPoint"`
	ReadOnly   bool   `json:"readOnly,omitempty"`
	// User is the host user the share was asked to be served as; nil means
	// the owner of Source.
	User *ID `json:"user,omitempty"`
	// Owner is the uid that Source belonged to when the file was read; nil
	// means that this is not known. A folder of another's is not served.
	Owner *uint32 `json:"owner,omitempty"`
}

// ID is a host user by number.
type ID struct {
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`
}

// User is the person inside the guest.
type User struct {
	Name string `json:"name"`
	ID
	// Home is the same path on host and guest.
	Home  string `json:"home"`
	Shell string `json:"shell"`
	// AuthorizedKeys are lines of an authorized_keys file.
	AuthorizedKeys []string `json:"authorizedKeys,omitempty"`
	// Explicit says that the file names this user, so that it may serve a
	// workspace that root owns.
	Explicit bool `json:"explicit,omitempty"`
}

// Image says what a guest's root file system is made of. Empty fields take the
// host's own distribution.
type Image struct {
	Suite   string `json:"suite,omitempty"`
	Mirror  string `json:"mirror,omitempty"`
	Keyring string `json:"keyring,omitempty"`
	// Packages are the extra packages, sorted, without duplicates.
	Packages []string `json:"packages,omitempty"`
}
