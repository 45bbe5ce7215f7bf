package setup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
)

// waitLock takes the lock file at path. Closing the file releases it.
func waitLock(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	taken := make(chan error, 1)
	go func() { taken <- flock(f) }()
	select {
	case err = <-taken:
	case <-ctx.Done():
		// flock can't be cancelled: what it takes later is given back.
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
