package image

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"bield/internal/spec"
)

func require(t *testing.T, ok bool, reason string) {
	t.Helper()
	switch {
	case ok:
	case os.Getenv("BIELD_TEST_REQUIRE") == "1":
		t.Fatal("required: " + reason)
	default:
		t.Skip(reason)
	}
}

// workshop is a store, inputs, and a program in the place of mmdebstrap.
type workshop struct {
	store Store
	in    Inputs
	dir   string
}

// newWorkshop puts a shell script in the path as mmdebstrap. In it $root is the
// new root, $work the builder's files, and $dir the workshop.
func newWorkshop(t *testing.T, script string) workshop {
	t.Helper()
	// Nothing answers at the workshop's sources; with a proxy nobody asks them.
	t.Setenv("http_proxy", "http://proxy.test")
	require(t, os.Geteuid() == 0, "needs root")
	dir := t.TempDir()
	// The image's uids pass through here.
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	in, err := resolve(debianHost(t), spec.Image{}, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	kernel := fakeELF("kernel")
	writeFiles(t, dir, map[string]string{
		"vmlinuz": string(fakeBzImage(4, binary.LittleEndian.AppendUint32(pack(t, kernel, openZstd), uint32(len(kernel))))),
		"bin/mmdebstrap": "#!/bin/sh\nset -eu\nroot=$(eval echo \\${$(($# - 1))})\nwork=$(dirname \"$root\")/work\ndir=" +
			dir + "\nsources=$(cat)\n" + script,
	})
	modules := map[string]string{}
	for _, m := range wantedModules() {
		modules[m.name+".ko"] = ""
	}
	for name, file := range fakeModules(t, nil, modules) {
		writeFiles(t, filepath.Join(dir, "modules/6.1.0-x"), map[string]string{name: string(file.Data)})
	}
	if err := os.Chmod(filepath.Join(dir, "bin/mmdebstrap"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	return workshop{store: Store{Dir: filepath.Join(dir, "cache", "images")}, in: in, dir: dir}
}

const goodBuild = `
echo "I: installing things..." >&2
mkdir -p "$root/usr/lib" "$root/etc"
cp -r "$dir/modules" "$root/usr/lib/modules"
echo made by $(id -u):$(id -g) >"$root/etc/made"
: >"$root/usr/setuid"
chmod 4755 "$root/usr/setuid"
cp "$dir/vmlinuz" "$work/vmlinuz"
`

// rubbish is what a store holds beside whole images, locks and logs.
func (w workshop) rubbish(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(w.store.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if name := e.Name(); name != "locks" && name != "logs" && !digestForm.MatchString(name) {
			names = append(names, name)
		}
	}
	return names
}

func TestBuild(t *testing.T) {
	w := newWorkshop(t, goodBuild+`
printf '%s\n' "$sources" >"$root/etc/saw-sources"
cp "$work/bield.sources" "$work/apt.conf" "$work/auth.conf" "$root/etc/"
env >"$root/etc/env"
echo "$@" >"$root/etc/args"
`)
	writeFiles(t, w.in.root, map[string]string{"etc/apt/auth.conf": "machine a.test password hidden\n"})
	t.Setenv("http_proxy", "http://127.0.0.1:9")
	t.Setenv("SOME_SECRET", "x")
	var steps []string
	img, err := w.store.Build(t.Context(), w.in, func(p Progress) { steps = append(steps, p.Step) })
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"prepare", "installing things", "unpack the kernel", "collect kernel modules", "write to disk"}; !slices.Equal(steps, want) {
		t.Errorf("steps %q", steps)
	}
	if img.Digest != w.in.Digest() || img.Manifest.Kernel != "6.1.0-x" || img.SizeBytes == 0 {
		t.Errorf("manifest %+v", img.Manifest)
	}
	if kernel, err := os.ReadFile(img.Kernel()); err != nil || !bytes.Equal(kernel, fakeELF("kernel")) {
		t.Errorf("kernel %q, %v", kernel, err)
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(img.Root(), "etc", name))
		if err != nil {
			t.Error(err)
		}
		return string(data)
	}
	if got := read("made"); got != "made by 0:0\n" {
		t.Errorf("the build ran as %s", got)
	}
	if got := read("saw-sources"); !strings.Contains(got, "me:secret@") || strings.Contains(got, "vendor") {
		t.Errorf("to download from: %s", got)
	}
	for _, name := range []string{"bield.sources", "args"} {
		if got := read(name); strings.Contains(got, "secret") || strings.Contains(got, "hidden") {
			t.Errorf("credentials in %s: %s", name, got)
		}
	}
	if !strings.Contains(read("auth.conf"), "hidden") || !strings.Contains(read("apt.conf"), "auth.conf") {
		t.Error("the download has no credentials")
	}
	if got := read("env"); !strings.Contains(got, "http_proxy=") || strings.Contains(got, "SOME_SECRET") {
		t.Errorf("environment: %s", got)
	}
	checkOwnership(t, w, img)
	if left := w.rubbish(t); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func checkOwnership(t *testing.T, w workshop, img Image) {
	t.Helper()
	for path, want := range map[string]struct {
		mode fs.FileMode
		uid  uint32
	}{
		w.store.Dir:                           {fs.ModeDir | 0o711, 0},
		img.Dir():                             {fs.ModeDir | 0o711, 0},
		img.Kernel():                          {0o644, 0},
		img.Modules():                         {0o644, 0},
		filepath.Dir(img.Root()):              {fs.ModeDir | 0o700, spec.ImageUIDBase},
		img.Root():                            {fs.ModeDir | 0o755, spec.ImageUIDBase},
		filepath.Join(img.Root(), "etc/made"): {0o644, spec.ImageUIDBase},
	} {
		info, err := os.Lstat(path)
		if err != nil {
			t.Error(err)
			continue
		}
		if uid := info.Sys().(*syscall.Stat_t).Uid; info.Mode() != want.mode || uid != want.uid {
			t.Errorf("%s is %v of %d, want %v of %d", path, info.Mode(), uid, want.mode, want.uid)
		}
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(img.Root()), "work")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the builder's files are still there: %v", err)
	}
}

func TestBuildOnceForMany(t *testing.T) {
	w := newWorkshop(t, goodBuild+"echo x >>\"$work/../../../../runs\"\n")
	if err := os.MkdirAll(filepath.Dir(w.store.Dir), 0o755); err != nil {
		t.Fatal(err)
	}
	runs := filepath.Join(filepath.Dir(w.store.Dir), "runs")
	if err := os.WriteFile(runs, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(runs, 0o666); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			if img, err := w.store.Build(t.Context(), w.in, nil); err != nil || img.Digest != w.in.Digest() {
				t.Errorf("image %s, %v", img.Digest, err)
			}
		})
	}
	group.Wait()
	if got, _ := os.ReadFile(runs); string(got) != "x\n" {
		t.Errorf("built %d times", len(got)/2)
	}
}

func TestBuildFails(t *testing.T) {
	tests := []struct{ name, script, want string }{
		{"unreachable source", `echo "E: Failed to fetch http://me:secret@deb.example.org/x  Could not resolve 'deb.example.org'" >&2; exit 25`,
			"package source http://deb.example.org/x: Could not resolve 'deb.example.org' (log: "},
		{"unknown package", "echo 'E: Unable to locate package nonsuch' >&2; exit 1", `no package "nonsuch"`},
		{"silent", "exit 3", "mmdebstrap: exit status 3 (log: "},
		{"no kernel", "exit 0", "read the kernel: "},
		{"kernel is a link out", `ln -s "$dir/vmlinuz" "$work/vmlinuz"`, "escapes from parent"},
		{"kernel is a pipe", `mkfifo "$work/vmlinuz"; exec 3<>"$work/vmlinuz"`, "is no file of at most"},
		{"no module", goodBuild + `rm "$root/usr/lib/modules/6.1.0-x/kernel/drivers/erofs.ko"`, "kernel module erofs"},
		{"two kernels", goodBuild + `cp -r "$root/usr/lib/modules/6.1.0-x" "$root/usr/lib/modules/y"`, "have 2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorkshop(t, tt.script+"\n")
			_, err := w.store.Build(t.Context(), w.in, nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want %q", err, tt.want)
			}
			if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "secret") {
				t.Errorf("error %q", err)
			}
			log, err := os.ReadFile(w.store.logPath(w.in.Digest()))
			if err != nil || strings.Contains(string(log), "secret") {
				t.Errorf("log %q, %v", log, err)
			}
			w.checkNoImage(t)
		})
	}
}

func (w workshop) checkNoImage(t *testing.T) {
	t.Helper()
	if left := w.rubbish(t); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if images, err := w.store.List(); err != nil || len(images) != 0 {
		t.Errorf("images %v, %v", images, err)
	}
	if _, err := w.store.Find(w.in.Digest()); !errors.Is(err, ErrNotFound) {
		t.Errorf("find: %v", err)
	}
}

func TestBuildInterrupted(t *testing.T) {
	// The child ignores all signals that can be ignored and has left the group.
	w := newWorkshop(t, `
trap '' TERM INT HUP
setsid sh -c 'trap "" TERM INT HUP; exec sleep 86399' &
echo "I: underway..." >&2
wait
`)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := w.store.Build(ctx, w.in, func(p Progress) {
		if p.Step == "underway" {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	if pids := processesWith(t, "sleep\x0086399"); len(pids) != 0 {
		t.Errorf("still running: %v", pids)
	}
	w.checkNoImage(t)
}

// processesWith are the processes of the image's uid with this command line.
func processesWith(t *testing.T, command string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []string
	for _, f := range files {
		if data, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(data), command) {
			pids = append(pids, f)
		}
	}
	return pids
}

func TestBuildClearsLeftovers(t *testing.T) {
	w := newWorkshop(t, goodBuild)
	other := strings.Repeat("ab", 32)
	for _, digest := range []string{w.in.Digest(), other} {
		writeFiles(t, w.store.Dir, map[string]string{tmpPrefix(digest) + "1/tree/rootfs/x": "", digest + "/vmlinux": ""})
	}
	if images, err := w.store.List(); err != nil || len(images) != 0 {
		t.Errorf("a folder without manifest is an image: %v, %v", images, err)
	}
	if _, err := w.store.Build(t.Context(), w.in, nil); err != nil {
		t.Fatal(err)
	}
	if left := w.rubbish(t); len(left) != 1 || !strings.HasPrefix(left[0], tmpPrefix(other)) {
		t.Errorf("left behind: %v", left)
	}
}

func TestBuildRefuses(t *testing.T) {
	w := newWorkshop(t, goodBuild)
	closed := filepath.Join(w.dir, "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := Store{Dir: filepath.Join(closed, "images")}.Build(t.Context(), w.in, nil)
	if want := fmt.Sprintf("%s is closed to other users", closed); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
	t.Setenv("PATH", filepath.Join(w.dir, "nonsuch"))
	_, err = w.store.Build(t.Context(), w.in, nil)
	if err == nil || !strings.Contains(err.Error(), "run `bield setup`") {
		t.Errorf("without mmdebstrap: %v", err)
	}
	if err := enoughSpace(w.dir, 1<<62); err == nil || !strings.Contains(err.Error(), "make room") {
		t.Errorf("no space: %v", err)
	}
}
