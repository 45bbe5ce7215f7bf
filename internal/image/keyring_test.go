package image

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bield/internal/spec"
)

// TestKeyringIsAnyFile: whoever writes the configuration names it.
func TestKeyringIsAnyFile(t *testing.T) {
	root := debianHost(t)
	at := func(name string) string { return filepath.Join(root, "srv", name) }
	writeFiles(t, root, map[string]string{"srv/empty": "", "srv/dir/x": "", "srv/largest": strings.Repeat("k", maxKeyring),
		"srv/large": strings.Repeat("k", maxKeyring+1)})
	if err := errors.Join(unix.Mkfifo(at("pipe"), 0o644), os.Symlink("/dev/zero", at("zero")),
		os.Symlink("/proc/self/maps", at("proc")), os.Symlink("loop", at("loop")),
		os.Symlink(filepath.Join(root, keyringPath), at("link"))); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"link": "", "largest": "",
		"pipe": "no file of at most 1048576 bytes", "zero": "no file of", "proc": "no file of", "dir": "no file of",
		"empty": "no file of", "large": "no file of", "loop": "too many levels", "absent": "does not exist",
	} {
		in, err := resolve(root, spec.Image{Keyring: "/srv/" + name}, "amd64")
		switch {
		case want == "" && (err != nil || in.Sources[0].KeyringSHA256 == ""):
			t.Errorf("%s: %v", name, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), name)):
			t.Errorf("%s: error %v, want %q", name, err, want)
		}
	}
}

// TestKeyringIsReplaced: between the look at it and the copy of it for a build.
func TestKeyringIsReplaced(t *testing.T) {
	b := builder{in: Inputs{root: t.TempDir()}, dir: t.TempDir()}
	if err := errors.Join(os.MkdirAll(b.work(), 0o755), unix.Mkfifo(filepath.Join(b.in.root, "k.gpg"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := b.copyKeyring("/k.gpg", "k.gpg"); err == nil || !strings.Contains(err.Error(), "no file of") {
		t.Errorf("error %v", err)
	}
}
