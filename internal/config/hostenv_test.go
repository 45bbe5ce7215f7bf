package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

func TestHostEnv(t *testing.T) {
	t.Setenv("SUDO_UID", "")
	env, err := HostEnv(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if env.Caller.UID != uint32(os.Getuid()) || env.Sudo != nil || env.MemoryMiB < 64 {
		t.Errorf("got %+v", env)
	}
	root, err := env.ByUID(0)
	if err != nil || root.Name != "root" || root.Home == "" {
		t.Errorf("root: %+v %v", root, err)
	}
	if again, err := env.ByName("root"); err != nil || again != root {
		t.Errorf("root by name: %+v %v", again, err)
	}
	for _, name := range []string{"no-such-user-here", "--help", ""} {
		if _, err := env.ByName(name); !errors.Is(err, ErrNoUser) {
			t.Errorf("ByName(%q): %v, want ErrNoUser", name, err)
		}
	}
	if _, err := env.ByUID(3_999_999_999); !errors.Is(err, ErrNoUser) {
		t.Errorf("unknown uid: %v", err)
	}
}

func TestSudoUIDCountsForRootAlone(t *testing.T) {
	t.Setenv("SUDO_UID", "1")
	daemon, err := userByUID(t.Context(), 1)
	if err != nil {
		skip(t, "this machine has no user 1")
	}
	if got, err := sudoCaller(t.Context(), 0); err != nil || got == nil || *got != daemon {
		t.Errorf("as root: %v %v", got, err)
	}
	if got, err := sudoCaller(t.Context(), 1000); err != nil || got != nil {
		t.Errorf("as another: %v %v", got, err)
	}
	t.Setenv("SUDO_UID", "0")
	if got, err := sudoCaller(t.Context(), 0); err != nil || got != nil {
		t.Errorf("root by sudo: %v %v", got, err)
	}
	t.Setenv("SUDO_UID", "x")
	if _, err := sudoCaller(t.Context(), 0); err == nil {
		t.Error("no number, no error")
	}
}

func TestHostPath(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	must(t, os.MkdirAll(root+"/a/b", 0o755))
	must(t, os.WriteFile(root+"/a/file", nil, 0o644))
	must(t, os.Symlink("a", root+"/rel"))
	must(t, os.Symlink(root+"/rel/b", root+"/a/abs"))
	must(t, os.Symlink("b/..", root+"/a/up"))
	for path, want := range map[string]PathInfo{
		"/a/b":        {Dir: true, Real: root + "/a/b"},
		"/a/file":     {Real: root + "/a/file"},
		"/rel/abs":    {Dir: true, Real: root + "/a/b", Links: []string{root + "/rel", root + "/a/abs", root + "/rel"}},
		"/a/up/b/../": {Dir: true, Real: root + "/a", Links: []string{root + "/a/up"}},
	} {
		got, err := hostPath(root + path)
		if err != nil || got.Dir != want.Dir || got.Real != want.Real || !slices.Equal(got.Links, want.Links) || got.UID != uint32(os.Getuid()) {
			t.Errorf("%s: %+v %v, want %+v", path, got, err, want)
		}
	}
	for path, want := range map[string]error{"/none": fs.ErrNotExist, "/a/file/x": syscall.ENOTDIR} {
		if _, err := hostPath(root + path); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
}

func TestPublicKeys(t *testing.T) {
	home := t.TempDir()
	if keys, err := publicKeys(home); err != nil || len(keys) != 0 {
		t.Errorf("no folder: %v %v", keys, err)
	}
	ssh := home + "/.ssh"
	must(t, os.Mkdir(ssh, 0o700))
	for name, text := range map[string]string{
		"id_ed25519.pub": aliceKey + "\n", "again.pub": "# comment\n\n" + aliceKey + "\n", "id_ed25519": "-----BEGIN OPENSSH PRIVATE KEY-----\n",
		"x-cert.pub": aliceKey + " certificate\n", "authorized_keys": aliceKey + " not this\n", "odd.pub": "root:x:0:0\n\x00",
	} {
		must(t, os.WriteFile(filepath.Join(ssh, name), []byte(text), 0o600))
	}
	must(t, syscall.Mkfifo(ssh+"/fifo.pub", 0o600))
	must(t, os.Symlink("nowhere", ssh+"/gone.pub"))
	if keys, err := publicKeys(home); err != nil || !slices.Equal(keys, []string{aliceKey}) {
		t.Errorf("got %q %v", keys, err)
	}
}
