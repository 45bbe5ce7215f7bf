package guest

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bield/internal/guestconfig"
)

// fillMountable is fill in a file system that goes with all that is mounted in it.
func fillMountable(t *testing.T, files map[string]string) tree {
	t.Helper()
	base := tree(t.TempDir())
	if err := unix.Mount("base", base.at("/"), "tmpfs", 0, "mode=0755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(base.at("/"), unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	put(t, base, files)
	return base
}

func TestOverlayForgets(t *testing.T) {
	if !inNamespaces(t, 0) {
		return
	}
	root := fillMountable(t, map[string]string{"/lower/etc/release": "image", "/lower/usr/share/doc/a": "a"})
	if err := mountOverlay(root); err != nil {
		if isErrno(err, unix.ENODEV) {
			skip(t, "the kernel has no overlay")
		}
		t.Fatal(err)
	}
	fresh := root.at(newRoot)
	if err := os.WriteFile(fresh+"/etc/release", []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(fresh+"/usr/share/doc", fresh+"/usr/share/moved"); err != nil {
		t.Errorf("rename a directory of the image: %v", err)
	}
	if content(t, root, lowerDir+"/etc/release") != "image" {
		t.Error("changed the image")
	}
}

func TestSystemMounts(t *testing.T) {
	if !inNamespaces(t, 0) {
		return
	}
	root := fillMountable(t, nil)
	if err := root.mountAll(systemMounts(initBield)); err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"/dev/pts devpts", "/dev/shm tmpfs", "/run tmpfs", "/tmp tmpfs"} {
		if !strings.Contains(string(table), root.at("")+want) {
			t.Errorf("no %s in\n%s", want, table)
		}
	}
	if st, err := os.Stat(root.at("/tmp")); err != nil || st.Mode()&os.ModeSticky == 0 {
		t.Errorf("/tmp is %v, %v", st.Mode(), err)
	}
}

func TestMountErrorsNameThings(t *testing.T) {
	if !inNamespaces(t, 0) {
		return
	}
	root := fillMountable(t, nil)
	err := mountShare(root, guestconfig.Share{Tag: "nope", MountPoint: "/workspace"}, testConfig().User)
	if err == nil || !strings.Contains(err.Error(), "mount share nope on /workspace") {
		t.Errorf("got %v", err)
	}
	err = root.mount(mountPoint{"x", "/x", "nosuchfs", 0, "", 0o755, false})
	if err == nil || !strings.Contains(err.Error(), "mount nosuchfs on /x") {
		t.Errorf("got %v", err)
	}
}

func TestShareFlags(t *testing.T) {
	for ro, want := range map[bool]uintptr{false: unix.MS_NOSUID | unix.MS_NODEV, true: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_RDONLY} {
		if got := shareFlags(guestconfig.Share{ReadOnly: ro}); got != want {
			t.Errorf("readOnly %v: %x, want %x", ro, got, want)
		}
	}
}

func TestRemoveOnStaysOnItsDevice(t *testing.T) {
	if !inNamespaces(t, 0) {
		return
	}
	root := fillMountable(t, map[string]string{"/init": "x", "/bield/modules/a.ko": "x"})
	if err := root.mount(mountPoint{"tmpfs", "/newroot", "tmpfs", 0, "", 0o755, false}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root.at("/newroot/file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(root.at("/"), &st); err != nil {
		t.Fatal(err)
	}
	removeOn(root.at("/"), st.Dev)
	if !root.exists("/newroot/file") || root.exists("/init") || root.exists("/bield") {
		t.Error("removed the wrong files")
	}
}

func TestWaitForDeviceGivesUp(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	calls := 0
	err := waitForDevice(ctx, func() error { calls++; return os.ErrNotExist })
	if !os.IsNotExist(err) || calls < 2 {
		t.Fatalf("%d calls, then %v", calls, err)
	}
}
