// Package guestconfig is what the host tells a guest before it boots: one JSON
// file in a small cpio archive of this VM's own, behind the shared initramfs.
// Nothing private goes on the kernel's command line.
//
// It is used on both sides, so it promises to import the standard library alone.
package guestconfig

// Version is the format of Config; a guest refuses any other. A field whose
// zero value means what was so before it existed needs no new one. Link is read
// before Version, to tell the host of a wrong one: it stays as it is.
const Version = 1

// Files in the initramfs.
const (
	// Path is where the guest reads its Config.
	Path = "/bield/guest.json"
	// ModulesPath is a JSON Modules list, in the shared part.
	ModulesPath = "/bield/modules.json"
	// InitPath is what the kernel starts.
	InitPath = "/init"
)

// LinkPort is the name of the virtio-serial port of the guest link.
const LinkPort = "bield.link"

// LinkVsockPort is the vsock port of the guest link, where it comes that way.
// Up to 1023 Linux gives a port only to who has CAP_NET_BIND_SERVICE
// (LAST_RESERVED_PORT of net/vmw_vsock/af_vsock.c), so that no other user of a
// guest takes it while bield-init makes way for systemd; 22 is systemd's own.
const LinkVsockPort = 1011

// Config is all that a guest needs to become this VM.
type Config struct {
	Version  int    `json:"version"`
	Hostname string `json:"hostname"`
	// Init is "bield" (bield-init stays PID 1) or "systemd".
	Init    string   `json:"init"`
	Modules []string `json:"modules"` // wanted kernel modules, by name; their dependencies are added
	Root    Root     `json:"root"`
	Network Network  `json:"network"`
	Shares  []Share  `json:"shares"`
	User    User     `json:"user"`
	// Link is how the host reaches bield-init.
	Link Link `json:"link,omitzero"`
	// HostKey is the guest path of sshd's one host key; it lies in a share.
	HostKey string `json:"hostKey"`
	// Clock is the host's time when it made this file, in Unix nanoseconds.
	Clock int64 `json:"clock"`
}

// Link says how the guest link comes. The zero value is the virtio-serial port
// LinkPort.
type Link struct {
	// VsockPort is the port of AF_VSOCK on which the guest listens, at most
	// 1023: LinkVsockPort. Only the host, CID 2, may connect to it.
	VsockPort uint32 `json:"vsockPort,omitempty"`
}

// Root says where the read-only root comes from. Exactly one field is set.
type Root struct {
	// Tag is a virtiofs tag.
	Tag string `json:"tag,omitempty"`
	// Disk is a block device that holds an EROFS file system, "/dev/vda".
	Disk string `json:"disk,omitempty"`
}

// Network is the static configuration of the one interface, found by its MAC.
type Network struct {
	MAC         string   `json:"mac"`
	Address     string   `json:"address"` // CIDR, "192.168.83.2/24"
	Gateway     string   `json:"gateway"`
	Nameservers []string `json:"nameservers"`
}

// Share is a virtiofs mount.
type Share struct {
	Tag        string `json:"tag"`
	MountPoint string `json:"mountPoint"`
	ReadOnly   bool   `json:"readOnly,omitempty"`
}

// User is the person who works in the guest.
type User struct {
	Name           string   `json:"name"`
	UID            uint32   `json:"uid"`
	GID            uint32   `json:"gid"`
	Home           string   `json:"home"`
	Shell          string   `json:"shell"`
	AuthorizedKeys []string `json:"authorizedKeys"`
}

// Module is one kernel module of the initramfs.
type Module struct {
	Name string `json:"name"` // as in /proc/modules: underscores
	File string `json:"file"` // uncompressed .ko in the initramfs
	// Deps are names of modules that must be loaded before; they stand
	// earlier in the list.
	Deps []string `json:"deps,omitempty"`
}

// Modules is in dependency order.
type Modules []Module
