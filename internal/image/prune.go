package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"bield/internal/state"
)

// Remove deletes an image. That no VM runs from it is the caller's to know; an
// image being built or removed by another process is an error.
func (s Store) Remove(digest string) error {
	if _, err := os.Lstat(s.path(digest)); err != nil || !digestForm.MatchString(digest) {
		return fmt.Errorf("image %q: %w", digest, ErrNotFound)
	}
	lock, err := s.tryLock(digest)
	if err != nil {
		return fmt.Errorf("remove image %s: %w", digest, err)
	}
	defer lock.Close()
	return s.discard(digest)
}

// discard renames an image to a temporary name, so that it stops counting at
// once, and deletes it. The caller holds its lock.
func (s Store) discard(digest string) error {
	gone, err := os.MkdirTemp(s.Dir, tmpPrefix(digest))
	if err != nil {
		return fmt.Errorf("remove image %s: %w", digest, err)
	}
	if err := os.Rename(s.path(digest), filepath.Join(gone, "image")); err != nil {
		return errors.Join(fmt.Errorf("remove image %s: %w", digest, err), os.RemoveAll(gone))
	}
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("remove image %s: %w", digest, err)
	}
	return nil
}

func tmpPrefix(digest string) string { return ".tmp-" + digest + "-" }

// Pruned is what Prune did.
type Pruned struct {
	Images []string `json:"images"`
	// FreedBytes counts the images, by their manifests.
	FreedBytes int64 `json:"freedBytes"`
	// Leftovers is how many interrupted builds and removals were cleared.
	Leftovers int `json:"leftovers"`
}

// Prune removes every image that keep does not want, of the others each
// initramfs that was not used for a day, and what failed and interrupted builds
// left; their logs after a week. What another process is at work on is passed
// over.
func (s Store) Prune(ctx context.Context, keep func(digest string) bool) (Pruned, error) {
	var done Pruned
	images, err := s.List()
	if err != nil {
		return done, err
	}
	for _, img := range images {
		if ctx.Err() != nil {
			return done, ctx.Err()
		}
		if keep(img.Digest) {
			if err := img.pruneInitrds(); err != nil {
				return done, err
			}
			continue
		}
		switch err := s.Remove(img.Digest); {
		case errors.Is(err, errBusy), errors.Is(err, ErrNotFound):
		case err != nil:
			return done, err
		default:
			done.Images = append(done.Images, img.Digest)
			done.FreedBytes += img.SizeBytes
		}
	}
	if done.Leftovers, err = s.clearRubbish(ctx, keep); err != nil {
		return done, err
	}
	return done, errors.Join(s.pruneNames(ctx, "logs", s.pruneLog), s.pruneNames(ctx, "locks", s.pruneLock))
}

// initrdRest is how long an initramfs stays that nobody asks for.
const initrdRest = 24 * time.Hour

// pruneInitrds removes what former versions of bield-init left. An image whose
// initramfs is being made is passed over.
func (i Image) pruneInitrds() error {
	lock, err := state.Lock(i.initrdLock())
	if errors.Is(err, state.ErrLocked) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("prune initramfs: %w", err)
	}
	defer lock.Close()
	paths, err := filepath.Glob(filepath.Join(i.dir, "initrd-*.cpio"))
	if err != nil {
		return fmt.Errorf("prune initramfs: %w", err)
	}
	for _, path := range paths {
		if err := removeUnused(path); err != nil {
			return fmt.Errorf("prune initramfs: %w", err)
		}
	}
	return nil
}

// removeUnused goes by the time of change: Initrd renews it at each use.
func removeUnused(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if time.Since(info.ModTime()) < initrdRest {
		return nil
	}
	return removeFile(path)
}

// Sweep clears what builds, removals and the makers of disks and initramfs left
// that died in the middle; images that are only damaged are Prune's. What another
// process is at work on is passed over.
func (s Store) Sweep(ctx context.Context) error {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	failures := []error{err}
	for _, e := range entries {
		if ctx.Err() != nil {
			break
		}
		if strings.HasPrefix(e.Name(), ".tmp-") {
			_, err := s.sweepOne(e.Name())
			failures = append(failures, err)
		} else if digestForm.MatchString(e.Name()) {
			failures = append(failures, s.sweepParts(e.Name()))
		}
	}
	if err := errors.Join(failures...); err != nil {
		return fmt.Errorf("clear interrupted builds: %w", err)
	}
	return nil
}

// sweepParts clears the parts of an image that are not whole.
func (s Store) sweepParts(digest string) error {
	i := Image{dir: s.path(digest), store: s}
	return errors.Join(
		sweepFile(i.unfinishedDisk(), func() (*os.File, error) { return s.tryLock(digest) }),
		sweepFile(i.unfinishedInitrd(), func() (*os.File, error) { return state.Lock(i.initrdLock()) }))
}

// sweepFile takes no lock where there is nothing: others want it.
func sweepFile(path string, lock func() (*os.File, error)) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	held, err := lock()
	if errors.Is(err, errBusy) || errors.Is(err, state.ErrLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	defer held.Close()
	return removeFile(path)
}

// clearRubbish clears what is no whole image and what nobody is at work on.
func (s Store) clearRubbish(ctx context.Context, keep func(digest string) bool) (int, error) {
	entries, err := os.ReadDir(s.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("list images: %w", err)
	}
	cleared := 0
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return cleared, err
		}
		// What is wanted may be damaged, but a VM may run from what is left.
		if digestForm.MatchString(e.Name()) && keep(e.Name()) {
			continue
		}
		done, err := s.sweepOne(e.Name())
		if err != nil {
			return cleared, fmt.Errorf("clear an interrupted build: %w", err)
		}
		if done {
			cleared++
		}
	}
	return cleared, nil
}

// sweepOne clears one folder of the store where it is a leftover.
func (s Store) sweepOne(name string) (bool, error) {
	rest := strings.TrimPrefix(name, ".tmp-")
	digest, _, _ := strings.Cut(rest, "-")
	if !digestForm.MatchString(digest) {
		return false, nil
	}
	lock, err := s.tryLock(digest)
	if errors.Is(err, errBusy) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer lock.Close()
	if name == digest {
		if _, err := s.Find(digest); !errors.Is(err, ErrNotFound) {
			return false, err
		}
	}
	return true, errors.Join(os.RemoveAll(filepath.Join(s.Dir, name)), removeFile(s.logPath(digest)))
}

// logRest is how long the log of a failed build stays.
const logRest = 7 * 24 * time.Hour

// pruneNames calls prune for each digest that a folder of the store has a file
// of, with its lock held. What another process is at work on is passed over.
func (s Store) pruneNames(ctx context.Context, folder string, prune func(digest string) error) error {
	entries, err := os.ReadDir(filepath.Join(s.Dir, folder))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("prune %s: %w", folder, err)
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		digest := strings.TrimSuffix(e.Name(), ".log")
		if !digestForm.MatchString(digest) {
			continue
		}
		if err := s.pruneName(digest, prune); err != nil {
			return fmt.Errorf("prune %s: %w", folder, err)
		}
	}
	return nil
}

func (s Store) pruneName(digest string, prune func(digest string) error) error {
	lock, err := s.tryLock(digest)
	if errors.Is(err, errBusy) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	return prune(digest)
}

// pruneLog removes an old log: what is built has none.
func (s Store) pruneLog(digest string) error {
	info, err := os.Lstat(s.logPath(digest))
	if errors.Is(err, fs.ErrNotExist) || err == nil && time.Since(info.ModTime()) < logRest {
		return nil
	}
	if err != nil {
		return err
	}
	return removeFile(s.logPath(digest))
}

// pruneLock removes the lock file, which the caller holds, of an image that
// is not there. Who waits for it sees that its name is gone.
func (s Store) pruneLock(digest string) error {
	if _, err := os.Lstat(s.path(digest)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return removeFile(filepath.Join(s.Dir, "locks", digest))
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
