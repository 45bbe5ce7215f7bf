package state

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMakeOwnedGivesNothingAway: what was there before stays whose it was.
func TestMakeOwnedGivesNothingAway(t *testing.T) {
	needRoot(t)
	for _, test := range []struct {
		name    string
		prepare func(t *testing.T, path string)
		want    string // "": given, or theirs already
		owner   uint32
	}{
		{"made", func(*testing.T, string) {}, "", somebody},
		{"theirs", func(t *testing.T, path string) {
			folder(t, path, somebody, 0o750)
			folder(t, path+"/x", somebody, 0o750)
		}, "", somebody},
		{"root's, half made", func(t *testing.T, path string) { folder(t, path, 0, 0o755) }, "", somebody},
		{"root's, with something in it", func(t *testing.T, path string) {
			folder(t, path, 0, 0o755)
			folder(t, path+"/x", 0, 0o755)
		}, "chown -R 54331", 0},
		{"root's, open to all", func(t *testing.T, path string) { folder(t, path, 0, 0o777) }, "chmod go-w", 0},
		{"another's", func(t *testing.T, path string) { folder(t, path, somebodyElse, 0o755) }, "belongs to uid 54332 and not to uid 54331", somebodyElse},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(closed(t), "src")
			test.prepare(t, path)
			err := MakeOwned(path, 0o755, somebody, somebody)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path)) {
				t.Errorf("%v, want %q in it", err, test.want)
			}
			if owner := ownerAt(t, path); owner != test.owner {
				t.Errorf("belongs to %d, want %d", owner, test.owner)
			}
		})
	}
}

func ownerAt(t *testing.T, path string) uint32 {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	owner, err := ownerOf(info)
	must(t, err)
	return owner
}

func TestMakeOwnedFollowsNoLink(t *testing.T) {
	needRoot(t)
	base := closed(t)
	folder(t, base+"/target", 0, 0o755)
	must(t, os.Symlink("target", base+"/link"))
	if err := MakeOwned(base+"/link", 0o755, somebody, somebody); err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("got %v", err)
	}
	if owner := ownerAt(t, base+"/target"); owner != 0 {
		t.Errorf("what the link leads to was given to %d", owner)
	}
}

func openOwn(t *testing.T) (*Owned, string) {
	t.Helper()
	path := filepath.Join(closed(t), "own")
	o, err := OpenOwned(path, 0o700, uint32(os.Getuid()), uint32(os.Getgid()))
	must(t, err)
	t.Cleanup(func() { _ = o.Close() })
	return o, path
}

func TestOwnedFiles(t *testing.T) {
	o, path := openOwn(t)
	if _, err := o.Read("f", 10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	must(t, os.WriteFile(path+"/f.new", []byte("half a file"), 0o600))
	for _, text := range []string{"one", "another"} {
		must(t, o.Write("f", []byte(text), 0o640))
		if got, err := o.Read("f", 10); err != nil || string(got) != text {
			t.Errorf("got %q %v", got, err)
		}
	}
	info, err := os.Stat(path + "/f")
	if err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v %v", info.Mode(), err)
	}
	if entries, err := os.ReadDir(path); err != nil || len(entries) != 1 {
		t.Errorf("left: %v %v", entries, err)
	}
}

// TestOwnedReadWaitsForNothing puts in a file's place what a user may think of.
func TestOwnedReadWaitsForNothing(t *testing.T) {
	o, path := openOwn(t)
	must(t, syscall.Mkfifo(path+"/fifo", 0o600))
	must(t, os.Mkdir(path+"/folder", 0o700))
	must(t, os.WriteFile(path+"/large", nil, 0o600))
	must(t, os.Truncate(path+"/large", 1<<40))
	must(t, os.WriteFile(path+"/file", []byte("x"), 0o600))
	must(t, os.Symlink("file", path+"/link"))
	for _, name := range []string{"fifo", "folder", "large", "link"} {
		if data, err := o.Read(name, 100); err == nil || !strings.Contains(err.Error(), "move it away") {
			t.Errorf("%s: %q %v", name, data, err)
		}
	}
	if os.Geteuid() == 0 {
		must(t, os.Chown(path+"/file", somebody, somebody))
		if data, err := o.Read("file", 100); err == nil || !strings.Contains(err.Error(), "belongs to uid 54331") {
			t.Errorf("another's: %q %v", data, err)
		}
	}
}

// TestOwnedGrowsWhileRead: the size that was looked at is not what bounds it.
func TestOwnedGrowsWhileRead(t *testing.T) {
	o, path := openOwn(t)
	must(t, os.WriteFile(path+"/f", make([]byte, 90), 0o600))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for size := int64(0); ; size = 1<<22 - size {
			select {
			case <-stop:
				return
			default:
				_ = os.Truncate(path+"/f", size)
			}
		}
	}()
	for range 2000 {
		if data, err := o.Read("f", 100); len(data) > 101 {
			t.Fatalf("%d bytes %v", len(data), err)
		}
	}
	close(stop)
	<-done
}

// exchange lets two names change places until the test ends.
func exchange(t *testing.T, a, b string) {
	t.Helper()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
					t.Errorf("exchange: %v", err)
					return
				}
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
	})
}

// TestFolderIsNotExchanged gives nothing but the user's own to the user,
// whatever they put in the folder's place meanwhile.
func TestFolderIsNotExchanged(t *testing.T) {
	needRoot(t)
	path := filepath.Join(closed(t), "vm")
	o, err := OpenOwned(path, 0o755, somebody, somebody)
	must(t, err)
	defer o.Close()
	folder(t, path+"/keys", somebody, 0o755)
	folder(t, path+"/another's", somebodyElse, 0o755)
	exchange(t, path+"/keys", path+"/another's")
	for range 3000 {
		if f, err := o.Folder("keys", 0o755); err == nil {
			info, err := f.dir.Stat()
			must(t, err)
			if owner, err := ownerOf(info); err != nil || owner != somebody {
				t.Fatalf("opened the folder of %d (%v)", owner, err)
			}
			must(t, f.Close())
		}
	}
	for _, name := range []string{"keys", "another's"} {
		info, err := os.Lstat(filepath.Join(path, name))
		must(t, err)
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != st.Gid {
			t.Errorf("%s: %+v", name, st)
		}
	}
}
