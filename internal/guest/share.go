package guest

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"bield/internal/guestconfig"
)

// mountShares mounts in the order given, so that one may lie inside another.
func mountShares(t tree, cfg guestconfig.Config) error {
	for _, s := range cfg.Shares {
		if err := mountShare(t, s, cfg.User); err != nil {
			return err
		}
	}
	return nil
}

func mountShare(t tree, s guestconfig.Share, u guestconfig.User) error {
	if err := makeMountPoint(t, s, u); err != nil {
		return err
	}
	err := unix.Mount(s.Tag, t.at(s.MountPoint), "virtiofs", shareFlags(s), "")
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("mount share %s on %s: the VM has no virtiofs device with that tag", s.Tag, s.MountPoint)
	}
	if err != nil {
		return fmt.Errorf("mount share %s on %s: %w", s.Tag, s.MountPoint, err)
	}
	return nil
}

// shareFlags: what lies in a share of the host's is never setuid nor a device here.
func shareFlags(s guestconfig.Share) uintptr {
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	if s.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	return flags
}

func makeMountPoint(t tree, s guestconfig.Share, u guestconfig.User) error {
	if err := t.mkdirs(s.MountPoint, u.Home, owner{u.UID, u.GID}); err != nil {
		return fmt.Errorf("share %s: %w", s.Tag, err)
	}
	st, err := os.Stat(t.at(s.MountPoint))
	if err != nil {
		return fmt.Errorf("share %s: %w", s.Tag, err)
	}
	if !st.IsDir() {
		return fmt.Errorf("share %s: the image has a file at %s: choose another mount point", s.Tag, s.MountPoint)
	}
	return nil
}
