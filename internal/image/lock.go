package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"bield/internal/state"
)

var errBusy = errors.New("is being built or removed by another process")

// tryLock takes the lock of an image, or returns errBusy. Closing the file
// releases it.
func (s Store) tryLock(digest string) (*os.File, error) {
	path, err := s.lockFile(digest)
	if err != nil {
		return nil, err
	}
	lock, err := state.Lock(path)
	if errors.Is(err, state.ErrLocked) {
		return nil, errBusy
	}
	return lock, err
}

// waitLock is tryLock that waits; onWait is called once if another holds it.
func (s Store) waitLock(ctx context.Context, digest string, onWait func()) (*os.File, error) {
	path, err := s.lockFile(digest)
	if err != nil {
		return nil, err
	}
	return state.WaitLock(ctx, path, onWait)
}

// lockFile is the lock file of an image, in a folder that is there.
func (s Store) lockFile(digest string) (string, error) {
	dir := filepath.Join(s.Dir, "locks")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make lock folder: %w", err)
	}
	return filepath.Join(dir, digest), nil
}
