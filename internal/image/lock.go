package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"bield/internal/state"
)

var errBusy = errors.New("is being built or removed by another process")

// tryLock takes the lock of an image, or returns errBusy. Closing the file
// releases it.
func (s Store) tryLock(digest string) (*os.File, error) {
	lock, err := s.lastingLock(digest, state.Lock)
	if errors.Is(err, state.ErrLocked) {
		return nil, errBusy
	}
	return lock, err
}

// waitLock is tryLock that waits; onWait is called once if another holds it.
func (s Store) waitLock(ctx context.Context, digest string, onWait func()) (*os.File, error) {
	once := sync.OnceFunc(onWait)
	return s.lastingLock(digest, func(path string) (*os.File, error) { return state.WaitLock(ctx, path, once) })
}

// lastingLock takes a lock again where Prune removed its file meanwhile: on one
// without a name nobody else would wait.
func (s Store) lastingLock(digest string, take func(path string) (*os.File, error)) (*os.File, error) {
	path, err := s.lockFile(digest)
	if err != nil {
		return nil, err
	}
	for {
		lock, err := take(path)
		if err != nil {
			return nil, err
		}
		if isAt(lock, path) {
			return lock, nil
		}
		_ = lock.Close()
	}
}

// isAt says whether path is the name of that open file.
func isAt(f *os.File, path string) bool {
	opened, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Lstat(path)
	return err == nil && os.SameFile(opened, named)
}

// lockFile is the lock file of an image, in a folder that is there.
func (s Store) lockFile(digest string) (string, error) {
	dir := filepath.Join(s.Dir, "locks")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make lock folder: %w", err)
	}
	return filepath.Join(dir, digest), nil
}
