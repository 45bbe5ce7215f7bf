// Package guestconfig is what the host tells a guest before it boots: one JSON
// file in a small cpio archive of this VM's own, behind the shared initramfs.
// Nothing private goes on the kernel's command line.
//
// It is used on both sides, so it promises to import the standard library alone.
package guestconfig

// Version is the format of Config; a guest refuses any other.
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
	// HostKey is the guest path of sshd's one host key; it lies in a share.
	HostKey string `json:"hostKey"`
	// Clock is the host's time when it made this file, in Unix nanoseconds.
	Clock int64 `json:"clock"`
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
