package state

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestLockIsExclusive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("got %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Close()
}

// TestWaitLock hands a lock from one to the next.
func TestWaitLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := WaitLock(t.Context(), path, func() { t.Error("waited for nobody") })
	if err != nil {
		t.Fatal(err)
	}
	waited := 0
	second, err := WaitLock(t.Context(), path, func() {
		waited++
		time.AfterFunc(10*time.Millisecond, func() { _ = first.Close() })
	})
	if err != nil || waited != 1 {
		t.Fatalf("%v after %d calls", err, waited)
	}
	if _, err := Lock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("taken twice: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}

// TestWaitLockCancelled: who gave up waiting must not get the lock afterwards
// and keep it.
func TestWaitLockCancelled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := WaitLock(ctx, path, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while waiting: %v", err)
	}
	if _, err := WaitLock(ctx, path, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	next, err := WaitLock(ctx, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = next.Close()
}

func TestLockFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "lock")
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), path); err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(path); err == nil {
		t.Error("followed a link")
	}
	if _, err := WaitLock(t.Context(), path, nil); err == nil {
		t.Error("waited behind a link")
	}
	if _, err := WaitLock(t.Context(), filepath.Join(dir, "absent", "lock"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}
