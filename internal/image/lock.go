package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

var errBusy = errors.New("is being built or removed by another process")

// tryLock takes the lock file at path, or returns errBusy. Closing the file
// releases it; the file stays, since removing it would let two hold it.
func tryLock(path string) (*os.File, error) {
	f, err := openLock(path)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errBusy
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// waitLock takes the lock file at path; wait is called once if another holds it.
func waitLock(ctx context.Context, path string, wait func()) (*os.File, error) {
	f, err := tryLock(path)
	if !errors.Is(err, errBusy) {
		return f, err
	}
	wait()
	if f, err = openLock(path); err != nil {
		return nil, err
	}
	// flock can't be cancelled: after a cancellation the goroutine gives the
	// lock back as soon as it has it.
	taken := make(chan error, 1)
	go func() {
		taken <- flock(f)
	}()
	select {
	case err = <-taken:
	case <-ctx.Done():
		go func() {
			<-taken
			f.Close()
		}()
		return nil, ctx.Err()
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

func flock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func openLock(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make lock folder: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	return f, nil
}
