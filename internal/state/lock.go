package state

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrLocked is returned by Lock while another process holds the lock.
var ErrLocked = errors.New("held by another process")

// Lock takes an exclusive lock on path, which it makes; its folder must be
// there. The lock ends with the returned file or with the process, whichever
// comes first. The file stays: removing it would let two hold the lock.
func Lock(path string) (*os.File, error) {
	f, err := openLock(path)
	if err != nil {
		return nil, err
	}
	err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrLocked
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// WaitLock is Lock, but where another holds the lock it waits until that one
// is done or ctx ends. It calls onWait, which may be nil, once before it waits.
func WaitLock(ctx context.Context, path string, onWait func()) (*os.File, error) {
	f, err := Lock(path)
	if !errors.Is(err, ErrLocked) {
		return f, err
	}
	if onWait != nil {
		onWait()
	}
	if f, err = openLock(path); err != nil {
		return nil, err
	}
	if err := waitFlock(ctx, f); err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// waitFlock locks f or closes it. flock can't be cancelled: what it takes after
// ctx has ended is given back at once.
func waitFlock(ctx context.Context, f *os.File) error {
	var err error
	taken := make(chan struct{})
	go func() {
		defer close(taken)
		err = flock(f, unix.LOCK_EX)
	}()
	select {
	case <-taken:
		if err != nil {
			_ = f.Close()
		}
		return err
	case <-ctx.Done():
		go func() {
			<-taken
			_ = f.Close()
		}()
		return ctx.Err()
	}
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// openLock follows no symbolic link: where others may write, it could lead
// anywhere.
func openLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	return f, nil
}
