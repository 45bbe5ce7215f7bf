package sshaccess

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
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
