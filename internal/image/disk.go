package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Disk is the path of the root as an EROFS file system with the image's own
// uids, for a guest that boots from a disk. It is made when it does not exist
// yet. progress may be nil.
func (i Image) Disk(ctx context.Context, progress func(Progress)) (string, error) {
	path := filepath.Join(i.dir, "root.erofs")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	if progress == nil {
		progress = func(Progress) {}
	}
	lock, err := i.store.waitLock(ctx, i.Digest, func() {
		progress(Progress{Digest: i.Digest, Step: "wait for another process at the same image"})
	})
	if err != nil {
		return "", fmt.Errorf("make disk: %w", err)
	}
	defer lock.Close()
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	progress(Progress{Digest: i.Digest, Step: "make the root disk"})
	if err := i.makeDisk(ctx, path); err != nil {
		return "", fmt.Errorf("make disk of image %s: %w", i.Digest[:12], err)
	}
	return path, nil
}

// unfinishedDisk is where the disk is written; the image's lock is held meanwhile.
func (i Image) unfinishedDisk() string { return filepath.Join(i.dir, ".root.erofs") }

// makeDisk writes beside path and renames. mkfs.erofs runs as the image's
// root, so that it sees, and writes, the guest's uids.
func (i Image) makeDisk(ctx context.Context, path string) error {
	if err := enoughSpace(i.dir, uint64(i.SizeBytes)); err != nil {
		return err
	}
	tmp := i.unfinishedDisk()
	if err := removeFile(tmp); err != nil {
		return err
	}
	out, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := out.Chown(int(i.Inputs.UIDBase), int(i.Inputs.UIDBase)); err != nil {
		return errors.Join(err, removeFile(tmp))
	}
	i.store.at("disk is begun")
	if err := i.runMkfs(ctx, tmp); err != nil {
		return errors.Join(err, removeFile(tmp))
	}
	if err := errors.Join(out.Chown(0, 0), out.Chmod(0o644), out.Sync()); err != nil {
		return errors.Join(err, removeFile(tmp))
	}
	i.store.at("disk is made")
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	i.store.at("disk has its name")
	return nil
}

func (i Image) runMkfs(ctx context.Context, target string) error {
	cmd := namespaced(ctx, i.Inputs.UIDBase, i.Inputs.UIDCount, "mkfs.erofs", "--quiet", "-U", volumeID(i.Digest), target, i.Root())
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.Dir = i.Root()
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
	err := runTied(cmd, nil)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("mkfs.erofs is not installed: run `bield setup`: %w", err)
	}
	return fmt.Errorf("mkfs.erofs: %w: %s", err, strings.TrimSpace(log.String()))
}

// volumeID makes a UUID of a digest: the same image, the same disk.
func volumeID(digest string) string {
	d := digest
	return d[0:8] + "-" + d[8:12] + "-" + d[12:16] + "-" + d[16:20] + "-" + d[20:32]
}
