package share

import (
	"fmt"
	"os"

	"bield/internal/process"
	"bield/internal/spec"
)

// Config describes one server.
type Config struct {
	// Tag is the share's, for error messages.
	Tag string
	// Dir is the folder, from Resolve or Open. Start does not close it.
	Dir      *os.File
	ReadOnly bool
	// Socket is the path of the socket, in a folder that only root writes.
	Socket string
	// SocketUID and SocketGID own the socket: the VMM's.
	SocketUID, SocketGID uint32
	// UID and GID are what the folder is served as; not used with ImageRoot.
	UID, GID uint32
	// ImageRoot marks the image's own share: Dir belongs to the uids from
	// spec.ImageUIDBase on, which the guest sees as 0 and up. It is read-only.
	ImageRoot bool
	// Log is the path of the server's log.
	Log string
	// Cgroups are the control groups it runs in: see process.Command.
	Cgroups []string
	// Note is told the server's ID before it runs: see process.Command.
	Note func(process.ID) error
}

const (
	// wantFiles is the RLIMIT_NOFILE wished for: the kernel's own ceiling
	// (fs.nr_open) unless an administrator changed it.
	wantFiles = 1 << 20
	// enoughFiles is what makes file handles unnecessary. Docker's usual
	// hard limit, 1<<19, is enough.
	enoughFiles = 1 << 18
	// listenerFD is where virtiofsd finds the first inherited file.
	listenerFD = 3
)

// Arguments are virtiofsd's for this share. With handles it uses file handles
// wherever it can.
func Arguments(cfg Config, handles bool) []string {
	args := []string{
		fmt.Sprintf("--fd=%d", listenerFD), "--shared-dir=.", "--sandbox=namespace",
		"--announce-submounts", "--rlimit-nofile=0", "--log-level=warn",
		"--inode-file-handles=" + map[bool]string{false: "never", true: "prefer"}[handles],
	}
	if cfg.ImageRoot {
		return append(args, "--readonly", "--cache=always", "--modcaps="+imageCapabilities)
	}
	args = append(args, "--cache=auto",
		fmt.Sprintf("--translate-uid=squash-guest:0:%d:4294967295", cfg.UID),
		fmt.Sprintf("--translate-gid=squash-guest:0:%d:4294967295", cfg.GID))
	if cfg.ReadOnly {
		args = append(args, "--readonly")
	}
	return args
}

// imageCapabilities takes from virtiofsd, in its user namespace, what a reader
// needs not, and leaves it to read files of all the image's users.
const imageCapabilities = "-chown:-dac_override:-fowner:-fsetid:-setgid:-setuid:-mknod:-setfcap:+dac_read_search"

// idMap is the image's user namespace.
func (c Config) idMap() *process.IDMap {
	if !c.ImageRoot {
		return nil
	}
	return &process.IDMap{Base: spec.ImageUIDBase, Count: spec.ImageUIDCount}
}
