package fakes

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// MountSys mounts /sys anew, since it shows the network namespace that it was
// mounted in, and below it the control groups as they were.
func MountSys() error {
	groups, err := os.Open("/sys/fs/cgroup")
	if err != nil {
		return err
	}
	defer func() { _ = groups.Close() }()
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return err
	}
	return unix.Mount(fmt.Sprintf("/proc/thread-self/fd/%d", groups.Fd()), "/sys/fs/cgroup", "", unix.MS_BIND|unix.MS_REC, "")
}
