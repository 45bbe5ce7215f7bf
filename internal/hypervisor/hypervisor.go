package hypervisor

import (
	"context"
	"net"
	"os"

	"bield/internal/process"
)

// Machine is one VM as a driver starts it. All paths are absolute.
type Machine struct {
	Name      string
	VCPU      int
	MemoryMiB int
	// Kernel is an ELF with a PVH note on x86-64 and an unpacked Image on arm64,
	// Initrd the whole initramfs. UID must be able to read both.
	Kernel, Initrd string
	// Cmdline is added to what the driver needs on the kernel's command line.
	Cmdline []string
	// Verbose lets the guest's kernel print its messages.
	Verbose bool
	Taps    []Tap
	Shares  []Share
	// RootDisk is a read-only disk image, the guest's /dev/vda; or empty.
	RootDisk string
	// Dir is the VM's run folder: root's, mode 0711. The driver's sockets lie
	// there; whoever made it removes it.
	Dir string
	// UID, GID and Groups are what the VMM runs as; a driver adds the group
	// that it needs for /dev/kvm.
	UID, GID uint32
	Groups   []uint32
	// Log is the path of what the VMM itself prints.
	Log string
	// Cgroups are the control groups it runs in: see process.Command.
	Cgroups []string
	// Note is told the VMM's ID before it runs: see process.Command.
	Note func(process.ID) error
}

// Tap is an interface with its queues, each an open /dev/net/tun that is attached
// to it with IFF_VNET_HDR. The driver doesn't close them.
type Tap struct {
	Queues []*os.File
	MAC    string
}

// Share is a vhost-user socket that virtiofsd listens on.
type Share struct {
	Tag    string
	Socket string
}

// Driver runs VMs with one kind of VMM.
type Driver interface {
	// Start returns when the VMM runs the machine, or with the reason why it
	// doesn't, and then nothing is left of it but its log. What a VMM that is gone
	// has left in Machine.Dir it removes. Where one still runs there, hanging or
	// not, or is being started, the error wraps ErrInUse and that one goes on
	// unharmed.
	Start(ctx context.Context, m Machine) (VM, error)
	// Adopt takes charge of a VM that an earlier daemon started. dir is its
	// Machine.Dir. The error wraps process.ErrGone if it has ended.
	Adopt(ctx context.Context, dir string, id process.ID) (VM, error)
}

// VM is a running machine.
type VM interface {
	// ID identifies the VMM's process, for a record.
	ID() process.ID
	// Done is closed when the VMM has ended.
	Done() <-chan struct{}
	// Cause says why, nil where the guest has powered itself off; it may be asked
	// once Done is closed.
	Cause() error
	// Link connects to the guest link. There is one connection at a time: a
	// second waits until the first is closed.
	Link(ctx context.Context) (net.Conn, error)
	// Serial connects to the serial line, one connection at a time. The first
	// after Start was made before the guest ran, and has its first words. What
	// the guest prints later while there is none is lost.
	Serial(ctx context.Context) (net.Conn, error)
	// PowerButton asks the guest to power off. It only asks: wait for Done.
	PowerButton(ctx context.Context) error
	// Pause stops the guest's CPUs and Resume lets them go on; neither minds if
	// that is so already.
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	// Kill ends the VMM at once and returns when it is gone.
	Kill(ctx context.Context) error
	// Close lets go of the VM and leaves it running. Done isn't closed then.
	Close()
}
