package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"bield/internal/guestconfig"
)

// Where the root is put together in the initramfs.
const (
	lowerDir = "/lower"
	upperDir = "/upper"
	newRoot  = "/newroot"
)

// deviceTimeout bounds the wait for a device that the host promised.
const deviceTimeout = 10 * time.Second

// mountPoint is one line of a mount table.
type mountPoint struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
	mode                   fs.FileMode
	// optional mounts may be unknown to the kernel.
	optional bool
}

func earlyMounts() []mountPoint {
	return []mountPoint{
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "", 0o555, false},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "", 0o555, false},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755", 0o755, false},
	}
}

// systemMounts are what a system expects inside the new root; systemd mounts
// the control groups itself.
func systemMounts(init string) []mountPoint {
	const private = unix.MS_NOSUID | unix.MS_NODEV
	mounts := []mountPoint{
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666", 0o755, false},
		{"tmpfs", "/dev/shm", "tmpfs", private, "mode=1777", 0o1777, false},
		{"mqueue", "/dev/mqueue", "mqueue", private | unix.MS_NOEXEC, "", 0o755, true},
		{"tmpfs", "/run", "tmpfs", private, "mode=0755,size=20%", 0o755, false},
		{"tmpfs", "/tmp", "tmpfs", private, "mode=1777", 0o1777, false},
	}
	if init == initBield {
		mounts = append(mounts, mountPoint{"cgroup2", "/sys/fs/cgroup", "cgroup2",
			private | unix.MS_NOEXEC, "nsdelegate,memory_recursiveprot", 0o755, true})
	}
	return mounts
}

func (t tree) mountAll(mounts []mountPoint) error {
	for _, m := range mounts {
		err := t.mount(m)
		if err != nil && !(m.optional && isErrno(err, unix.ENODEV, unix.EINVAL, unix.EPERM, unix.ENOENT)) {
			return err
		}
	}
	return nil
}

func (t tree) mount(m mountPoint) error {
	target := t.at(m.target)
	if err := os.MkdirAll(target, m.mode.Perm()); err != nil {
		return fmt.Errorf("mount %s: %w", m.target, err)
	}
	if err := unix.Mount(m.source, target, m.fstype, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.fstype, m.target, err)
	}
	return nil
}

// mountRoot puts the new root together: the image below, memory above.
func mountRoot(ctx context.Context, root guestconfig.Root) error {
	ctx, cancel := context.WithTimeout(ctx, deviceTimeout)
	defer cancel()
	if err := os.MkdirAll(lowerDir, 0o755); err != nil {
		return fmt.Errorf("mount the image: %w", err)
	}
	if err := waitForDevice(ctx, func() error { return mountImage(root) }); err != nil {
		return err
	}
	return mountOverlay("/")
}

func mountImage(root guestconfig.Root) error {
	if root.Disk != "" {
		if err := unix.Mount(root.Disk, lowerDir, "erofs", unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("mount the image from disk %s: %w", root.Disk, err)
		}
		return nil
	}
	err := unix.Mount(root.Tag, lowerDir, "virtiofs", unix.MS_RDONLY, "")
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("mount the image: the VM has no virtiofs device with the tag %q", root.Tag)
	}
	if err != nil {
		return fmt.Errorf("mount the image from virtiofs %s: %w", root.Tag, err)
	}
	return nil
}

// mountOverlay mounts memory over the image. Redirects let directories of the
// image be renamed, metacopy keeps a chown or chmod from copying files.
func mountOverlay(base tree) error {
	upper := mountPoint{"tmpfs", upperDir, "tmpfs", unix.MS_NOSUID, "mode=0755,size=75%,nr_inodes=0", 0o755, false}
	if err := base.mount(upper); err != nil {
		return err
	}
	for _, d := range []string{upperDir + "/data", upperDir + "/work"} {
		if err := os.Mkdir(base.at(d), 0o755); err != nil {
			return fmt.Errorf("make the overlay: %w", err)
		}
	}
	data := "lowerdir=" + base.at(lowerDir) + ",upperdir=" + base.at(upperDir+"/data") +
		",workdir=" + base.at(upperDir+"/work")
	err := base.mount(mountPoint{"overlay", newRoot, "overlay", 0, data + ",redirect_dir=on,metacopy=on", 0o755, false})
	if errors.Is(err, unix.EINVAL) { // a kernel without these options
		err = base.mount(mountPoint{"overlay", newRoot, "overlay", 0, data, 0o755, false})
	}
	return err
}

// switchRoot makes newRoot the root of every process, gives the initramfs's
// memory back, and leaves its mounts out of sight.
func switchRoot() error {
	for _, m := range earlyMounts() {
		if err := os.MkdirAll(newRoot+m.target, m.mode.Perm()); err != nil {
			return fmt.Errorf("move %s: %w", m.target, err)
		}
		if err := unix.Mount(m.target, newRoot+m.target, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", m.target, err)
		}
	}
	freeInitramfs()
	if err := unix.Chdir(newRoot); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the new root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change to the new root: %w", err)
	}
	return unix.Chdir("/")
}

// freeInitramfs deletes the files of the initramfs, and only if it is one.
func freeInitramfs() {
	var st unix.Statfs_t
	if unix.Statfs("/", &st) != nil || st.Type != unix.RAMFS_MAGIC && st.Type != unix.TMPFS_MAGIC {
		return
	}
	var root unix.Stat_t
	if unix.Stat("/", &root) == nil {
		removeOn("/", root.Dev)
	}
}

// removeOn removes what lies in dir on one device; what it cannot remove stays.
func removeOn(dir string, dev uint64) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil || st.Dev != dev {
			continue
		}
		if e.IsDir() {
			removeOn(path, dev)
		}
		_ = os.Remove(path)
	}
}

// tune sets what systemd sets and a user without it would miss.
func (t tree) tune() {
	settings := map[string]string{
		"net/ipv4/ping_group_range":     "0 2147483647", // ping without a capability
		"fs/protected_symlinks":         "1",
		"fs/protected_hardlinks":        "1",
		"fs/inotify/max_user_instances": "1024",
		"fs/inotify/max_user_watches":   strconv.Itoa(1 << 20), // agents watch big trees
	}
	for name, value := range settings {
		_ = os.WriteFile(t.at("/proc/sys/"+name), []byte(value), 0)
	}
}
