package verify

import (
	"net"
	"net/netip"
)

// Modes of egress, as internal/spec has them.
const (
	ModeOpen      = "open"
	ModePublic    = "public"
	ModeAllowlist = "allowlist"
	ModeNone      = "none"
)

// Facts are what the host knows of a VM and of itself.
type Facts struct {
	// Cookie names files; Mark ends the packet of the order with that number.
	Cookie string
	Mark   func(id uint32) []byte

	IP        netip.Addr
	MAC       net.HardwareAddr
	Tap       string
	Bridge    string
	BridgeMAC net.HardwareAddr
	Gateway   netip.Addr
	Subnet    netip.Prefix

	// What the spec opens.
	Mode         string
	Allow        []Allowed
	TrustBridge  bool
	HostPorts    []Port
	GuestToGuest bool
	// OwnPorts are those of the host on which bield's resolver and proxy answer.
	OwnPorts    []Port
	Nameservers []netip.Addr
	// NonPublic are the addresses that are none of the internet's.
	NonPublic []netip.Prefix

	// Addresses are the host's own IPv4 addresses beyond loopback, the gateway
	// first; Neighbours are addresses of its networks, routers first.
	Addresses  []netip.Addr
	Neighbours []netip.Addr
	Listeners  []Listener
	// CanaryTCP and CanaryUDP are ports that the host has opened for this;
	// CanaryIP are IP protocols.
	CanaryTCP, CanaryUDP uint16
	CanaryIP             []int
	Siblings             []Sibling
	Shares               []Share
	// RootOnDisk says that the image is a disk and no share.
	RootOnDisk bool

	// SecretPath is a file of the host's that anyone there may read, and Secret
	// what is in it.
	SecretPath, Secret string
	BootID             string
	PID                int
	CommandLine        []byte
	Disks              []Disk
	// VirtioDevices says how many of each kind the VM was given (virtio 1.2,
	// section 5); VirtioPorts are the names of its virtio-serial ports.
	VirtioDevices map[int]int
	VirtioPorts   []string

	// Boot tells this run of the VM from others; Earlier is that of the last
	// verification, or "".
	Boot, Earlier string
	// Home is that of the guest's user.
	Home string
}

// Allowed is a network that is open to the VM in every mode; port 0 is any.
type Allowed struct {
	Prefix netip.Prefix
	Port   uint16
}

// Port is one of the host's, "tcp" or "udp".
type Port struct {
	Proto string
	Port  uint16
}

// Listener is a socket of the host's that takes what comes; an unspecified
// address is all of them.
type Listener struct {
	Port
	Address netip.Addr
}

// Sibling is another VM that runs.
type Sibling struct {
	Name string
	IP   netip.Addr
	MAC  net.HardwareAddr
	Tap  string
}

// Share is a folder that the VM has, served as UID.
type Share struct {
	Tag, MountPoint string
	ReadOnly        bool
	UID             uint32
}

// Disk is one of the host's; Start is what it begins with.
type Disk struct {
	Name         string
	Major, Minor uint32
	Start        []byte
}

// Evidence is what came of the attempts.
type Evidence struct {
	Results map[int]Result
	// Seen lists the interfaces that had a packet of an order, Heard the canaries
	// that did.
	Seen, Heard map[uint32][]string
	// Connections are the host's sockets that are connected to the guest.
	Connections []Connection
	// Files are those of Plan.Files that are there.
	Files map[File]FileInfo
}

// Connection is a socket of the host's with the guest's port at its other end.
type Connection struct {
	Local     netip.AddrPort
	GuestPort uint16
}

// File is a name in the folder of a share, or in the one above it.
type File struct {
	Tag, Name string
	Above     bool
}

// FileInfo is what lies there.
type FileInfo struct {
	UID, Mode uint32
}
