package image

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"

	"bield/internal/guestconfig"
)

// readArchives reads archives that follow each other, as the kernel does: at
// multiples of four, zeros between them.
func readArchives(t *testing.T, data []byte) []cpio.Record {
	t.Helper()
	var all []cpio.Record
	for len(data) > 0 {
		end := bytes.Index(data, []byte("TRAILER!!!\x00"))
		if end < 0 {
			t.Fatal("an archive without its end")
		}
		records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(data)))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, records...)
		rest := bytes.TrimLeft(data[end+len("TRAILER!!!"):], "\x00")
		if at := len(data) - len(rest); len(rest) > 0 && at%archiveAlignment != 0 {
			t.Fatalf("an archive begins at %d", at)
		}
		data = rest
	}
	return all
}

func content(t *testing.T, records []cpio.Record, name string) ([]byte, cpio.Info) {
	t.Helper()
	for _, r := range records {
		if "/"+r.Name == name {
			data := make([]byte, r.FileSize)
			if _, err := r.ReadAt(data, 0); err != nil && len(data) > 0 {
				t.Fatal(err)
			}
			return data, r.Info
		}
	}
	t.Fatalf("%s is missing", name)
	return nil, cpio.Info{}
}

func someModules() []kernelModule {
	return []kernelModule{{name: "virtio", content: fakeModule("a=b")}, {name: "virtio_net", content: fakeModule(), depends: []string{"virtio"}}}
}

func archive(t *testing.T, modules []kernelModule) []byte {
	t.Helper()
	records, err := moduleRecords(modules)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := writeArchive(&out, records); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestModuleArchive(t *testing.T) {
	data := archive(t, someModules())
	if !bytes.Equal(data, archive(t, someModules())) {
		t.Error("the same modules, other bytes")
	}
	records := readArchives(t, data)
	var names []string
	for _, r := range records {
		names = append(names, r.Name)
		if r.MTime != 0 || r.UID != 0 || r.GID != 0 {
			t.Errorf("%s has a time or an owner", r.Name)
		}
	}
	want := "bield bield/modules bield/modules/virtio.ko bield/modules/virtio_net.ko bield/modules.json dev dev/console proc root sys"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("got %s", got)
	}
	if _, info := content(t, records, "/dev/console"); info.Mode != cpio.S_IFCHR|0o600 || info.Rmajor != 5 || info.Rminor != 1 {
		t.Errorf("console is %+v", info)
	}
	var list guestconfig.Modules
	text, _ := content(t, records, guestconfig.ModulesPath)
	if err := json.Unmarshal(text, &list); err != nil || !reflect.DeepEqual(list, moduleList(someModules())) {
		t.Errorf("list %v, %v", list, err)
	}
}

func TestConfigArchive(t *testing.T) {
	cfg := guestconfig.Config{Version: guestconfig.Version, Hostname: "h", User: guestconfig.User{Name: "ä"}}
	data, err := ConfigArchive(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(data)%archiveAlignment != 0 {
		t.Errorf("%d bytes", len(data))
	}
	text, info := content(t, readArchives(t, data), guestconfig.Path)
	var got guestconfig.Config
	if err := json.Unmarshal(text, &got); err != nil || !reflect.DeepEqual(got, cfg) {
		t.Errorf("got %+v, %v", got, err)
	}
	if info.Mode != cpio.S_IFREG|0o600 {
		t.Errorf("mode %o", info.Mode)
	}
}

// anImage has modules and kernel for amd64, and nothing else.
func anImage(dir string) Image {
	return Image{Manifest: Manifest{Inputs: Inputs{Arch: "amd64"}}, dir: dir}
}

func TestInitrd(t *testing.T) {
	dir := t.TempDir()
	img := anImage(dir)
	if err := os.WriteFile(img.Modules(), archive(t, someModules()), 0o644); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "init")
	if err := os.WriteFile(program, fakeELF("init one"), 0o755); err != nil {
		t.Fatal(err)
	}
	first, err := img.Initrd(t.Context(), program)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	config, _ := ConfigArchive(guestconfig.Config{Version: 1})
	records := readArchives(t, append(data, config...))
	if text, info := content(t, records, guestconfig.InitPath); string(text) != string(fakeELF("init one")) || info.Mode != cpio.S_IFREG|0o755 {
		t.Errorf("init is %q, mode %o", text, info.Mode)
	}
	content(t, records, guestconfig.Path)
	content(t, records, guestconfig.ModulesPath)
	if info, _ := os.Stat(first); info.Mode().Perm() != 0o644 {
		t.Errorf("mode %v: a VMM could not read it", info.Mode())
	}
	if again, err := img.Initrd(t.Context(), program); err != nil || again != first {
		t.Errorf("again: %s, %v", again, err)
	}
	if err := os.WriteFile(program, fakeELF("init two"), 0o755); err != nil {
		t.Fatal(err)
	}
	if other, err := img.Initrd(t.Context(), program); err != nil || other == first {
		t.Errorf("another init: %s, %v", other, err)
	}
}

func TestInitrdErrors(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	arm := filepath.Join(dir, "arm")
	if err := os.WriteFile(arm, elfFor(elf.EM_AARCH64, ""), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		arm:                          "no program for amd64",
		text:                         "no program for amd64",
		dir:                          "is no program",
		filepath.Join(dir, "absent"): "no such file",
	} {
		if _, err := anImage(dir).Initrd(t.Context(), path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", path, err, want)
		}
	}
	program := filepath.Join(dir, "init")
	if err := os.WriteFile(program, fakeELF(""), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := anImage(dir).Initrd(t.Context(), program); err == nil {
		t.Error("no error without the modules")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*initrd*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
