package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"bield/internal/api"
	"bield/test/host"
)

// disk is a file system of a few pages, at a place of the machine's.
type disk struct {
	dir      string
	pageSize int64
}

// newDisk mounts one, which only the machine sees.
func newDisk(t *testing.T, dir string, pages int) disk {
	d := disk{dir, int64(os.Getpagesize())}
	must(t, os.MkdirAll(dir, 0o755))
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("mode=755,size=%d", int64(pages)*d.pageSize)))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return d
}

// filler bears a name of the daemon's own, so that it is no leftover.
func (d disk) filler() string { return filepath.Join(d.dir, "bieldd.filler") }

// leave fills the disk but for so many pages.
func (d disk) leave(pages int64) error {
	if err := d.free(); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		return err
	}
	return os.WriteFile(d.filler(), bytes.Repeat([]byte{1}, int((int64(st.Bavail)-pages)*d.pageSize)), 0o600)
}

func (d disk) free() error { return os.RemoveAll(d.filler()) }

// TestFullDisk has the disk of the state folder, and that of the run directory,
// be full in the middle of each write of an up.
func TestFullDisk(t *testing.T) {
	host.Require(t)
	t.Run("state", func(t *testing.T) {
		t.Parallel()
		fullState(t)
	})
	t.Run("run", func(t *testing.T) {
		t.Parallel()
		fullRun(t)
	})
}

// enough is more pages than the small files of an up take.
const enough = 40

// fullState tries a fresh folder with no page left, then with one, until an up
// succeeds.
func fullState(t *testing.T) {
	h := machineFor(t, "", 5*time.Minute)
	defer h.End(t)
	d := newDisk(t, filepath.Join(h.Work, "state"), 2048)
	for pages := range int64(enough) {
		must(t, forget(h, d))
		must(t, h.StartDaemon(nil))
		must(t, d.leave(pages))
		if tryFull(t, h, d, pages) {
			t.Logf("an up took %d pages of the state folder", pages)
			return
		}
	}
	t.Errorf("no up with %d pages left", enough)
}

// forget ends the daemon and empties the disk.
func forget(h *host.Host, d disk) error {
	err := h.EndDaemon(unix.SIGTERM)
	entries, readErr := os.ReadDir(d.dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(d.dir, e.Name())))
	}
	return errors.Join(err, readErr, os.RemoveAll(h.Run.StatePointer()))
}

// tryFull says whether an up succeeds with so many pages left. One that does not
// says why and leaves nothing, a new daemon reads all that is there, and with room
// all is well.
func tryFull(t *testing.T, h *host.Host, d disk, pages int64) bool {
	t.Helper()
	declared, err := h.Spec(context.Background())
	must(t, err)
	upErr := force(h, "one")
	must(t, errors.Join(readable(h), keysParse(declared.StateDir)))
	if upErr == nil {
		must(t, soon(func() error { return settled(h, declared, []string{"one"}) }))
	} else {
		if !strings.Contains(upErr.Error(), "no space left on device") {
			t.Errorf("%d pages: %v", pages, upErr)
		}
		if err := soon(func() error { return settled(h, declared, nil) }); err != nil {
			t.Errorf("%d pages: %v (%v)", pages, err, upErr)
		}
	}
	// A new daemon, too, has to do with what little room there is.
	must(t, h.EndDaemon(unix.SIGKILL))
	must(t, h.StartDaemon(nil))
	must(t, downOf()(h))
	must(t, soon(func() error { return settled(h, declared, nil) }))
	must(t, d.free())
	must(t, upOf("one")(h))
	must(t, soon(func() error { return settled(h, declared, []string{"one"}) }))
	must(t, d.leave(0))
	must(t, downOf()(h))
	must(t, soon(func() error { return settled(h, declared, nil) }))
	must(t, d.free())
	return upErr == nil
}

// force starts a VM although the host has not enough.
func force(h *host.Host, vm string) error {
	ctx := context.Background()
	declared, err := h.Spec(ctx)
	if err != nil {
		return err
	}
	return h.Client.Up(ctx, api.UpRequest{Host: declared, Origin: h.File(), Names: []string{vm}, Force: true}, quiet)
}

// keysParse holds every private key below a folder to be whole.
func keysParse(dir string) error {
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir(), !strings.HasPrefix(d.Name(), "id_") && !strings.HasPrefix(d.Name(), "ssh_host_"):
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, ".pub") {
			_, _, _, _, err = ssh.ParseAuthorizedKey(data)
		} else {
			_, err = ssh.ParsePrivateKey(data)
		}
		if err != nil {
			return fmt.Errorf("%s: %w: %q", path, err, data)
		}
		return nil
	})
}

// fullRun does so for the run directory. Most of it is the initramfs: the writes
// before it are tried page by page, and so are those after it.
func fullRun(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	h := machineFor(t, "", 5*time.Minute)
	defer h.End(t)
	d := newDisk(t, h.Run.Dir, 16384)
	must(t, h.StartDaemon(nil))
	try := func(pages int64) bool {
		must(t, d.leave(pages))
		return tryFull(t, h, d, pages)
	}
	least := leastPages(8192, func(pages int64) bool {
		must(t, d.leave(pages))
		err := force(h, "one")
		must(t, d.free())
		must(t, downOf()(h))
		return err == nil
	})
	for pages := range int64(12) {
		if try(pages) {
			t.Fatalf("an up took only %d pages", pages)
		}
	}
	// The daemon's own log takes a page, now and then.
	for pages := least - 8; !try(pages); pages++ {
		if pages > least+8 {
			t.Fatalf("an up took %d pages before, and more than %d now", least, pages)
		}
	}
	t.Logf("an up took %d pages of the run directory", least)
}

// leastPages halves down to the least number with which works says true.
func leastPages(most int64, works func(int64) bool) int64 {
	least := most
	for low := int64(0); low < least; {
		if middle := (low + least) / 2; works(middle) {
			least = middle
		} else {
			low = middle + 1
		}
	}
	return least
}
