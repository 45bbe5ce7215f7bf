package state

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Environment variables that let several bields stand side by side.
const (
	EnvRunDir   = "BIELD_RUN_DIR"
	EnvCacheDir = "BIELD_CACHE_DIR"
)

// The folders of the host's own bield, the one that its units start.
const (
	DefaultRunDir   = "/run/bield"
	DefaultCacheDir = "/var/cache/bield"
)

// Run is the run directory: sockets, records of what runs, and logs.
type Run struct{ Dir string }

// RunFromEnv takes BIELD_RUN_DIR, or DefaultRunDir.
func RunFromEnv() Run { return Run{Dir: cmp.Or(os.Getenv(EnvRunDir), DefaultRunDir)} }

// Socket is where bieldd listens.
func (r Run) Socket() string { return filepath.Join(r.Dir, "bieldd.sock") }

// EgressSocket is where the egress process takes its policy.
func (r Run) EgressSocket() string { return filepath.Join(r.Dir, "egress.sock") }

// EgressLog is what the egress process prints.
func (r Run) EgressLog() string { return filepath.Join(r.Dir, "egress.log") }

// Lock is held by the one daemon of this run directory.
func (r Run) Lock() string { return filepath.Join(r.Dir, "bieldd.lock") }

// Log is the daemon's own log where bield started it.
func (r Run) Log() string { return filepath.Join(r.Dir, "bieldd.log") }

// Events is the log of what happened on the host.
func (r Run) Events() string { return filepath.Join(r.Dir, "events.log") }

// HostRecord notes what was changed on the host itself.
func (r Run) HostRecord() string { return filepath.Join(r.Dir, "host.json") }

// Records holds one record a VM.
func (r Run) Records() string { return filepath.Join(r.Dir, "records") }

// Record is the record of one VM.
func (r Run) Record(vm string) string { return filepath.Join(r.Records(), vm+".json") }

// VM is the run directory of one VM: its sockets and boot files.
func (r Run) VM(name string) string { return filepath.Join(r.Dir, "vms", name) }

// KnownHosts pins the host key of one VM for OpenSSH.
func (r Run) KnownHosts(vm string) string { return filepath.Join(r.VM(vm), "known_hosts") }

// Fates notes what is to become of VMs.
func (r Run) Fates() string { return filepath.Join(r.Dir, "fates.json") }

// StatePointer names the state folder that the applied spec uses.
func (r Run) StatePointer() string { return filepath.Join(r.Dir, "state.json") }

// Owner is the mark that bield's links and tables carry in the kernel, so
// that what is somebody else's is told apart.
func (r Run) Owner() string { return "bield " + r.Dir }

// Make creates the run directory and its fixed folders. Others may pass
// through, since a VM's socket belongs to its VMM's user, but not list.
func (r Run) Make() error {
	for _, d := range []struct {
		path string
		mode os.FileMode
	}{
		{r.Dir, 0o755},
		{r.Records(), 0o700},
		{filepath.Join(r.Dir, "vms"), 0o711},
	} {
		if err := makeDir(d.path, d.mode); err != nil {
			return err
		}
	}
	return nil
}

// Cache is what can be made again: images and tools.
type Cache struct{ Dir string }

// CacheFromEnv takes BIELD_CACHE_DIR, or DefaultCacheDir.
func CacheFromEnv() Cache { return Cache{Dir: cmp.Or(os.Getenv(EnvCacheDir), DefaultCacheDir)} }

// Images is the image store.
func (c Cache) Images() string { return filepath.Join(c.Dir, "images") }

// Make creates the cache. An unprivileged VMM reads its kernel here.
func (c Cache) Make() error { return makeDir(c.Dir, 0o755) }

// Folder is the state folder: what a host keeps over reboots. Beside one
// folder a VM it holds bield's own, under a name that no VM can have.
type Folder struct{ Dir string }

func (f Folder) own() string { return filepath.Join(f.Dir, "_bield") }

// Applied is the applied spec.
func (f Folder) Applied() string { return filepath.Join(f.own(), "applied.json") }

// Pointer names the state folder that the host's own bield uses, where that is
// another one than this.
func (f Folder) Pointer() string { return filepath.Join(f.own(), "state.json") }

// DaemonKey is the private SSH key of bieldd.
func (f Folder) DaemonKey() string { return filepath.Join(f.own(), "keys", "bieldd", "id_ed25519") }

// UserKey is the private SSH key that bield made for the host user uid.
func (f Folder) UserKey(uid uint32) string {
	return filepath.Join(f.own(), "keys", strconv.FormatUint(uint64(uid), 10), "id_ed25519")
}

// Console is the guest console's log of one VM; it outlives the VM, so that a
// failed boot can be read afterwards.
func (f Folder) Console(vm string) string {
	return filepath.Join(f.own(), "console", vm+".log")
}

// Verified notes which run of a VM was verified last.
func (f Folder) Verified(vm string) string {
	return filepath.Join(f.own(), "verified", vm+".json")
}

// VM is the folder of one VM.
func (f Folder) VM(name string) string { return filepath.Join(f.Dir, name) }

// HostKeys holds the SSH host keys of one VM; the guest mounts it.
func (f Folder) HostKeys(vm string) string { return filepath.Join(f.VM(vm), "ssh-host-keys") }

// Make creates the state folder, open for passing through: the keys below it
// belong to their users.
func (f Folder) Make() error {
	for _, d := range []struct {
		path string
		mode os.FileMode
	}{
		{f.Dir, 0o755},
		{f.own(), 0o711},
		{filepath.Join(f.own(), "keys"), 0o711},
		{filepath.Join(f.own(), "console"), 0o700},
		{filepath.Join(f.own(), "verified"), 0o700},
	} {
		if err := makeDir(d.path, d.mode); err != nil {
			return err
		}
	}
	return nil
}

// makeDir makes the folder at path with exactly this mode, whatever the umask
// is. One that is there already must be as good: nobody else may write in it,
// nor exchange it.
func makeDir(path string, mode os.FileMode) error {
	if err := makeTrusted(path, mode); err != nil {
		return fmt.Errorf("make folder %s: %w", path, err)
	}
	return nil
}

func makeTrusted(path string, mode os.FileMode) error {
	parent, err := openTrusted(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer parent.Close()
	at, name := int(parent.Fd()), filepath.Base(path)
	err = unix.Mkdirat(at, name, uint32(mode.Perm()))
	switch {
	case err == nil:
		return unix.Fchmodat(at, name, uint32(mode.Perm()), 0)
	case !errors.Is(err, unix.EEXIST):
		return err
	}
	dir, err := openFolder(parent, name)
	if err != nil {
		return err
	}
	defer dir.Close()
	info, err := dir.Stat()
	if err != nil {
		return err
	}
	return distrust(path, info, false)
}
