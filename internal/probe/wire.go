package probe

import "time"

// Name is the program's, and begins the names of all that it is ordered to make.
const Name = "bield-verify"

// Limits that both sides keep.
const (
	// MaxWait bounds one order; connections are tried at the same time.
	MaxWait = 3 * time.Second
	// MaxData is the longest data of a result, in bytes.
	MaxData = 4 << 10
	// MaxLine bounds a line of results; one of orders is the host's own.
	MaxLine = 16 << 10
	// MaxOrders bounds a batch.
	MaxOrders = 8192
)

// Verb says what an order is to do.
type Verb string

// The verbs, and the fields of an order that each takes.
const (
	// TCP connects to Address and Port, sends Data if there is some, and then
	// waits for an answer.
	TCP Verb = "tcp"
	// UDP sends Data to Address and Port and waits for an answer or an error.
	UDP Verb = "udp"
	// RawIP sends Data by a raw IP socket of protocol Number to Address.
	RawIP Verb = "ip"
	// Frame sends Data as it is on the interface with the MAC address Address.
	Frame Verb = "frame"
	// Vsock connects to the ports 1 to Number of the host, CID 2; the result's
	// data lists those that took it.
	Vsock Verb = "vsock"
	// Firmware lists the options in QEMU's firmware configuration device, each with
	// the start of what is in it.
	Firmware Verb = "firmware"
	// Read reads the start of the file Path.
	Read Verb = "read"
	// Glob lists the paths that match Path, each with the start of what is in it.
	Glob Verb = "glob"
	// Create writes Data to the file Path, which must not be there; Mode is its mode.
	Create Verb = "create"
	// Chmod sets the Mode of Path, Chown its owner to uid Number.
	Chmod Verb = "chmod"
	Chown Verb = "chown"
	// Mknod makes the node Path of the Mode, with the device Number.
	Mknod Verb = "mknod"
	// Symlink makes the link Path to To; Rename moves Path there, Link links it.
	Symlink Verb = "symlink"
	Rename  Verb = "rename"
	Link    Verb = "link"
	// Remove removes the file Path.
	Remove Verb = "remove"
	// Mkdir makes the folder Path, Rmdir removes it.
	Mkdir Verb = "mkdir"
	Rmdir Verb = "rmdir"
	// Mount mounts To, of the file system Data, at Path with the flags Number;
	// Unmount takes away what is mounted there.
	Mount   Verb = "mount"
	Unmount Verb = "unmount"
	// Rewrite reads the first sector of the device Path and writes it back.
	Rewrite Verb = "rewrite"
	// Handles opens the first Number nodes of the file system at Path by file
	// handles, and reads To below each that opens.
	Handles Verb = "handles"
	// Filesystem says of which kind that of Path is, as a hexadecimal number.
	Filesystem Verb = "filesystem"
)

// Order is one thing to do.
type Order struct {
	ID      int    `json:"id"`
	Verb    Verb   `json:"verb"`
	Address string `json:"address,omitempty"`
	Port    uint16 `json:"port,omitempty"`
	Path    string `json:"path,omitempty"`
	To      string `json:"to,omitempty"`
	Mode    uint32 `json:"mode,omitempty"`
	Number  uint64 `json:"number,omitempty"`
	Data    []byte `json:"data,omitempty"`
}

// Outcomes that are no error's name.
const (
	OK       = "ok"
	Silent   = "silent" // nothing came in time
	Answered = "answered"
	Closed   = "closed" // connected, and then closed by the other side
)

// Result is what came of an order, or, with Done, the end of a batch.
type Result struct {
	ID int `json:"id"`
	// Outcome is one of those above or the name of the error, "ECONNREFUSED".
	Outcome string `json:"outcome,omitempty"`
	// Connected says that a TCP connection was made, from LocalPort.
	Connected bool   `json:"connected,omitempty"`
	LocalPort uint16 `json:"localPort,omitempty"`
	Data      []byte `json:"data,omitempty"`
	Done      bool   `json:"done,omitempty"`
}
