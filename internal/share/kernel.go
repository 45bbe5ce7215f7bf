package share

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// checkFolder refuses folders that hold no files but the kernel's own state,
// by whatever name they were reached: a bind mount is no link.
func checkFolder(dir *os.File) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil {
		return fmt.Errorf("look at the file system of %s: %w", dir.Name(), err)
	}
	device, err := isDev(dir)
	if err != nil {
		return err
	}
	if device || slices.Contains(kernelFileSystems(), uint32(fs.Type)) {
		return fmt.Errorf("%s is the kernel's: share a folder of files", dir.Name())
	}
	return nil
}

// kernelFileSystems are f_type of those (statfs(2)).
func kernelFileSystems() []uint32 {
	return []uint32{
		unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.DEVPTS_SUPER_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC,
		unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.SELINUX_MAGIC, unix.SMACK_MAGIC, unix.BPF_FS_MAGIC,
		unix.EFIVARFS_MAGIC, unix.PSTOREFS_MAGIC, unix.BINFMTFS_MAGIC, unix.NSFS_MAGIC,
	}
}

// isDev recognizes /dev by its device number: to statfs(2) a devtmpfs is a
// tmpfs like others. Where it is no mount of its own it holds what files do.
func isDev(dir *os.File) (bool, error) {
	var here, dev, root unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &here); err != nil {
		return false, fmt.Errorf("look at %s: %w", dir.Name(), err)
	}
	err := errors.Join(unix.Stat("/dev", &dev), unix.Stat("/", &root))
	if errors.Is(err, unix.ENOENT) {
		return false, nil // a host without /dev has none to share
	}
	if err != nil {
		return false, fmt.Errorf("look at /dev: %w", err)
	}
	return here.Dev == dev.Dev && dev.Dev != root.Dev, nil
}
