package config

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"bield/internal/spec"
)

// realEnv is this machine, but with accounts that a test may rely on.
func realEnv(t *testing.T) Env {
	t.Helper()
	env, err := HostEnv(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	env.Sudo = nil
	env.Caller.Home = t.TempDir()
	env.PublicKeys = func(string) ([]string, error) { return nil, nil }
	env.ByName = func(string) (Account, error) { return Account{}, ErrNoUser }
	env.ByUID = func(uint32) (Account, error) { return Account{}, ErrNoUser }
	return env
}

// site is a folder with a workspace and a good file beside it.
type site struct{ root, workspace, file string }

func newSite(t *testing.T) site {
	t.Helper()
	root := t.TempDir()
	s := site{root, filepath.Join(root, "work"), filepath.Join(root, "etc", "bield.yaml")}
	for _, dir := range []string{s.workspace, filepath.Dir(s.file)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.write(t, s.file, "")
	return s
}

func (s site) write(t *testing.T, file, more string) {
	t.Helper()
	yaml := "stateDir: " + s.root + "/state\nuser: {name: agent, uid: 5000}\n" + more +
		"vms: {a: {ip: 192.168.83.2, workspace: " + s.workspace + ", mem: 128}}\n"
	if err := os.WriteFile(file, []byte(yaml), 0o644); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestLoadReadsAGoodFile(t *testing.T) {
	s := newSite(t)
	h, err := Load(t.Context(), s.file, realEnv(t))
	if err != nil {
		t.Fatal(err)
	}
	if h.VMs[0].Workspace() != s.workspace || h.VMs[0].User.UID != 5000 {
		t.Errorf("got %+v", h)
	}
	link := filepath.Join(s.root, "link.yaml")
	must(t, os.Symlink("etc/../etc/bield.yaml", link))
	if _, err := Load(t.Context(), link, realEnv(t)); err != nil {
		t.Errorf("by a link between good folders: %v", err)
	}
	t.Chdir(filepath.Dir(s.file))
	if _, err := Load(t.Context(), "bield.yaml", realEnv(t)); err != nil {
		t.Errorf("by a relative path: %v", err)
	}
}

func TestLoadRefuses(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(t *testing.T, s site) string
		want    string
	}{
		{"a missing file", func(_ *testing.T, s site) string { return s.root + "/none" }, "check the path"},
		{"a folder", func(_ *testing.T, s site) string { return s.root }, "no ordinary file"},
		{"a FIFO", func(t *testing.T, s site) string {
			must(t, syscall.Mkfifo(s.root+"/fifo", 0o600))
			return s.root + "/fifo"
		}, "no ordinary file"},
		{"a world-writable file", func(t *testing.T, s site) string { must(t, os.Chmod(s.file, 0o646)); return s.file }, "etc/bield.yaml may be written by others (mode 0646)"},
		{"a group-writable file", func(t *testing.T, s site) string { must(t, os.Chmod(s.file, 0o664)); return s.file }, "chmod go-w "},
		{"a writable folder", func(t *testing.T, s site) string { must(t, os.Chmod(filepath.Dir(s.file), 0o777)); return s.file }, "/etc may be written by others (mode 0777)"},
		{"a writable folder above", func(t *testing.T, s site) string { must(t, os.Chmod(s.root, 0o775)); return s.file }, "may be written by others (mode 0775)"},
		{"a link in a writable folder", func(t *testing.T, s site) string {
			must(t, os.Mkdir(s.root+"/open", 0o755))
			must(t, os.Chmod(s.root+"/open", 0o777))
			must(t, os.Symlink(s.file, s.root+"/open/link"))
			must(t, os.Symlink("open/link", s.root+"/first"))
			return s.root + "/first"
		}, "/open may be written by others"},
		{"a file in the workspace", func(t *testing.T, s site) string {
			file := s.workspace + "/bield.yaml"
			s.write(t, file, "")
			return file
		}, "holds this configuration file"},
		{"a link in the workspace", func(t *testing.T, s site) string {
			must(t, os.Symlink(s.file, s.workspace+"/link"))
			return s.workspace + "/link"
		}, "holds this configuration file ("},
		{"a link into the workspace", func(t *testing.T, s site) string {
			s.write(t, s.workspace+"/real", "")
			must(t, os.Symlink(s.workspace+"/real", s.root+"/link"))
			return s.root + "/link"
		}, "holds this configuration file"},
		{"a folder that is a link into the workspace", func(t *testing.T, s site) string {
			must(t, os.Mkdir(s.workspace+"/conf", 0o755))
			s.write(t, s.workspace+"/conf/f", "")
			must(t, os.Symlink(s.workspace+"/conf", s.root+"/conf"))
			return s.root + "/conf/f"
		}, "holds this configuration file"},
		{"a share around the file", func(t *testing.T, s site) string {
			s.write(t, s.file, "shares: [{source: "+filepath.Dir(s.file)+", mountPoint: /x, readOnly: true}]\n")
			return s.file
		}, "shares[0].source: "},
		{"a loop of links", func(t *testing.T, s site) string {
			must(t, os.Symlink("loop", s.root+"/loop"))
			return s.root + "/loop"
		}, "too many levels of symbolic links"},
		{"a large file", func(t *testing.T, s site) string {
			must(t, os.WriteFile(s.file, make([]byte, maxFileBytes+1), 0o644))
			return s.file
		}, "keep it smaller"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load(t.Context(), tt.prepare(t, newSite(t)), realEnv(t))
			if _, ok := errors.AsType[*FileError](err); !ok || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v\nwant …%s…", err, tt.want)
			}
		})
	}
}

func TestLoadRefusesStrangersFiles(t *testing.T) {
	if os.Getuid() != 0 {
		skip(t, "needs root to give files away")
	}
	s := newSite(t)
	env := realEnv(t)
	must(t, os.Chown(s.file, 4242, 4242))
	if _, err := Load(t.Context(), s.file, env); err == nil || !strings.Contains(err.Error(), "belongs to uid 4242") {
		t.Errorf("got %v", err)
	}
	env.Sudo = &Account{Name: "carol", ID: spec.ID{UID: 4242, GID: 4242}, Home: "/home/carol"}
	if _, err := Load(t.Context(), s.file, env); err != nil {
		t.Errorf("the file of who called sudo: %v", err)
	}
	// In a sticky folder nobody else can replace it, but a stranger's link is no way to it.
	env.Sudo = nil
	must(t, os.Chown(s.file, 0, 0))
	must(t, os.Mkdir(s.root+"/tmp", 0o755))
	must(t, os.Chmod(s.root+"/tmp", 0o777|os.ModeSticky))
	s.write(t, s.root+"/tmp/f", "")
	if _, err := Load(t.Context(), s.root+"/tmp/f", env); err != nil {
		t.Errorf("own file in a sticky folder: %v", err)
	}
	must(t, os.Symlink(s.file, s.root+"/tmp/link"))
	must(t, os.Lchown(s.root+"/tmp/link", 4242, 4242))
	if _, err := Load(t.Context(), s.root+"/tmp/link", env); err == nil || !strings.Contains(err.Error(), "/tmp/link belongs to uid 4242") {
		t.Errorf("a stranger's link: %v", err)
	}
}

func skip(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("BIELD_TEST_REQUIRE") == "1" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

func TestLoadStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Load(ctx, newSite(t).file, realEnv(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestFind(t *testing.T) {
	env := realEnv(t)
	own := UserFile(env.Caller.Home)
	if _, err := Find("/nowhere/at/all", env); !errors.Is(err, ErrNoFile) || !strings.Contains(err.Error(), "/nowhere/at/all") {
		t.Errorf("explicit and missing: %v", err)
	}
	if _, err := os.Stat(SystemFile); errors.Is(err, os.ErrNotExist) {
		_, err := Find("", env)
		if !errors.Is(err, ErrNoFile) || !strings.Contains(err.Error(), own) || !strings.Contains(err.Error(), SystemFile) || !strings.Contains(err.Error(), Minimal) {
			t.Errorf("none: %v", err)
		}
	}
	must(t, os.MkdirAll(filepath.Dir(own), 0o755))
	must(t, os.WriteFile(own, nil, 0o644))
	if got, err := Find("", env); got != own || err != nil {
		t.Errorf("the user's own: %q %v", got, err)
	}
	if got, err := Find(own, env); got != own || err != nil {
		t.Errorf("explicit: %q %v", got, err)
	}
	sudo := t.TempDir()
	env.Sudo = &Account{Name: "carol", Home: sudo}
	must(t, os.MkdirAll(filepath.Dir(UserFile(sudo)), 0o755))
	must(t, os.WriteFile(UserFile(sudo), nil, 0o644))
	if got, err := Find("", env); got != UserFile(sudo) || err != nil {
		t.Errorf("under sudo: %q %v", got, err)
	}
}
