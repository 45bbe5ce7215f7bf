package sshaccess

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

func ids() (uid, gid uint32) { return uint32(os.Getuid()), uint32(os.Getgid()) }

func TestEnsureKeyIsMadeOnce(t *testing.T) {
	uid, gid := ids()
	path := filepath.Join(t.TempDir(), "me", "id_ed25519")
	first, err := EnsureKey(path, "me", uid, gid)
	if err != nil {
		t.Fatal(err)
	}
	second, err := EnsureKey(path, "me", uid, gid)
	if err != nil || second != first {
		t.Fatalf("got %v %v, want %v", second, err, first)
	}
	for file, mode := range map[string]os.FileMode{path: 0o600, path + ".pub": 0o644, filepath.Dir(path): 0o700 | os.ModeDir} {
		info, err := os.Stat(file)
		if err != nil || info.Mode() != mode {
			t.Errorf("%s: %v %v, want %v", file, info.Mode(), err, mode)
		}
	}
	if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(first.Public)); err != nil {
		t.Error(err)
	}
}

func TestEnsureKeyMendsThePublicHalf(t *testing.T) {
	uid, gid := ids()
	path := filepath.Join(t.TempDir(), "me", "id_ed25519")
	key, err := EnsureKey(path, "me", uid, gid)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".pub", []byte("ssh-ed25519 somebody-else\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureKey(path, "me", uid, gid); err != nil {
		t.Fatal(err)
	}
	public, err := os.ReadFile(path + ".pub")
	if err != nil || strings.TrimSpace(string(public)) != key.Public {
		t.Errorf("got %q %v", public, err)
	}
}

func TestHostKeyFollowsNoLink(t *testing.T) {
	uid, gid := ids()
	base := t.TempDir()
	elsewhere := filepath.Join(base, "elsewhere")
	if err := os.Mkdir(elsewhere, 0o755); err != nil {
		t.Fatal(err)
	}
	vm := filepath.Join(base, "vm")
	keys := filepath.Join(vm, "ssh-host-keys")
	if err := os.Mkdir(vm, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, keys); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureHostKey(vm, keys, "key", "root@vm", uid, gid); err == nil {
		t.Error("a folder that is a link was followed")
	}
	if err := os.Remove(keys); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(keys, 0o755); err != nil {
		t.Fatal(err)
	}
	victim := filepath.Join(elsewhere, "victim")
	if err := os.WriteFile(victim, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(keys, "key.pub")); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureHostKey(vm, keys, "key", "root@vm", uid, gid); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(victim); string(got) != "mine" {
		t.Errorf("a link was written through: %q", got)
	}
}

// exchange lets two names change places until stop is called.
func exchange(t *testing.T, a, b string) (stop func()) {
	t.Helper()
	ask, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ask:
				return
			default:
				if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
					t.Errorf("exchange: %v", err)
					return
				}
			}
		}
	}()
	return sync.OnceFunc(func() { close(ask); <-done })
}

// TestHostKeyWhileItsFolderIsExchanged: the user who owns the VM's folder puts a
// link in the place of the one below it again and again. Nothing may ever be
// written where that link leads.
func TestHostKeyWhileItsFolderIsExchanged(t *testing.T) {
	uid, gid := ids()
	base := t.TempDir()
	target, vm := filepath.Join(base, "target"), filepath.Join(base, "vm")
	keys, link := filepath.Join(vm, "ssh-host-keys"), filepath.Join(vm, "link")
	if err := os.Mkdir(target, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureHostKey(vm, keys, "key", "root@vm", uid, gid); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	stop := exchange(t, keys, link)
	defer stop()
	made := 0
	for range 4000 {
		if _, err := EnsureHostKey(vm, keys, "key", "root@vm", uid, gid); err == nil {
			made++
		}
		if entries, err := os.ReadDir(target); err != nil || len(entries) > 0 {
			t.Fatalf("written where the link leads: %v %v", entries, err)
		}
	}
	if made == 0 || made == 4000 {
		t.Errorf("the exchange was not seen: %d of 4000 keys", made)
	}
}

// TestKeyWhileItIsExchangedForAPipe: nothing waits for a writer that never comes.
func TestKeyWhileItIsExchangedForAPipe(t *testing.T) {
	uid, gid := ids()
	path := filepath.Join(t.TempDir(), "me", "id_ed25519")
	if _, err := EnsureKey(path, "me", uid, gid); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(path+".pipe", 0o600); err != nil {
		t.Fatal(err)
	}
	stop := exchange(t, path, path+".pipe")
	defer stop()
	over := make(chan struct{})
	go func() {
		defer close(over)
		for range 4000 {
			_, _ = EnsureKey(path, "me", uid, gid)
		}
	}()
	select {
	case <-over:
	case <-time.After(30 * time.Second):
		t.Error("waits for a pipe")
		stop()
		for _, p := range []string{path, path + ".pipe"} { // lets it go
			if fd, err := unix.Open(p, unix.O_RDWR|unix.O_NONBLOCK, 0); err == nil {
				unix.Close(fd)
			}
		}
		<-over
	}
}

// TestFolderOfSomebodyElse: a VM's name must not make a present of a folder.
func TestFolderOfSomebodyElse(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("BIELD_TEST_REQUIRE") == "1" {
			t.Fatal("needs root to give folders away")
		}
		t.Skip("needs root to give folders away")
	}
	vm := filepath.Join(t.TempDir(), "src")
	if err := os.Mkdir(vm, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(vm, 54331, 54331); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureHostKey(vm, filepath.Join(vm, "ssh-host-keys"), "key", "root@src", 54332, 54332); err == nil || !strings.Contains(err.Error(), vm) {
		t.Errorf("got %v", err)
	}
	info, err := os.Stat(vm)
	if err != nil {
		t.Fatal(err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != 54331 {
		t.Errorf("it was given away: %+v", st)
	}
}

func TestBrokenKeyIsNamed(t *testing.T) {
	uid, gid := ids()
	path := filepath.Join(t.TempDir(), "me", "id_ed25519")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := EnsureKey(path, "me", uid, gid)
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("got %v", err)
	}
}

func TestKnownHosts(t *testing.T) {
	got := KnownHosts("claude-home", "192.168.83.2", "ssh-ed25519 AAAA c")
	if want := []byte("claude-home.bield,192.168.83.2 ssh-ed25519 AAAA c\n"); !bytes.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
