package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// fakeModule is a relocatable ELF file with a .modinfo section that holds
// these strings.
func fakeModule(info ...string) []byte {
	const headers, names = 64, "\x00.modinfo\x00.shstrtab\x00"
	modinfo := strings.Join(info, "\x00") + "\x00"
	var b bytes.Buffer
	write := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) }
	b.WriteString("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9))
	write(struct {
		Type, Machine                uint16
		Version                      uint32
		Entry, Phoff, Shoff          uint64
		Flags                        uint32
		Ehsize, Phentsize, Phnum     uint16
		Shentsize, Shnum, Shstrindex uint16
	}{1, 62, 1, 0, 0, headers, 0, 64, 0, 0, 64, 3, 2})
	section := func(name, kind uint32, offset, size uint64) {
		write(struct {
			Name, Type                uint32
			Flags, Addr, Offset, Size uint64
			Link, Info                uint32
			Align, Entsize            uint64
		}{name, kind, 0, 0, offset, size, 0, 0, 1, 0})
	}
	data := uint64(headers + 3*64)
	section(0, 0, 0, 0)
	section(1, 1, data, uint64(len(modinfo)))
	section(10, 3, data+uint64(len(modinfo)), uint64(len(names)))
	b.WriteString(modinfo + names)
	return b.Bytes()
}

// fakeModules is a lib/modules/RELEASE: one file a name, with its
// dependencies; a name with a suffix is packed.
func fakeModules(t testing.TB, builtin []string, modules map[string]string) fstest.MapFS {
	t.Helper()
	list := ""
	for _, name := range builtin {
		list += "kernel/x/" + name + ".ko\n"
	}
	files := fstest.MapFS{"modules.builtin": {Data: []byte(list)}, "kernel/readme": {Data: []byte("x")}}
	for file, depends := range modules {
		data := fakeModule("license=GPL", "depends="+depends, "name="+moduleName(file))
		switch {
		case strings.HasSuffix(file, ".xz"):
			data = pack(t, data, openXZ)
		case strings.HasSuffix(file, ".zst"):
			data = pack(t, data, openZstd)
		case strings.HasSuffix(file, ".gz"):
			data = pack(t, data, openGzip)
		}
		files["kernel/drivers/"+file] = &fstest.MapFile{Data: data}
	}
	return files
}

func collect(t *testing.T, files fs.FS, wanted ...wantedModule) ([]kernelModule, error) {
	t.Helper()
	tree, err := openModules(files)
	if err != nil {
		t.Fatal(err)
	}
	return collectModules(tree, wanted)
}

func TestCollectModules(t *testing.T) {
	files := fakeModules(t, []string{"virtio", "crc32c-generic"}, map[string]string{
		"virtio_net.ko.xz":   "net_failover,virtio",
		"net_failover.ko.gz": "failover",
		"failover.ko.zst":    "",
		"virtio-rng.ko":      "virtio",
		"fuse.ko":            "",
		"virtiofs.ko":        "virtio,fuse",
	})
	got, err := collect(t, files, wantedModule{name: "virtio_net"}, wantedModule{name: "virtio_rng"},
		wantedModule{name: "crc32c_generic"}, wantedModule{name: "nonsuch", optional: true}, wantedModule{name: "virtiofs"})
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, m := range moduleList(got) {
		order = append(order, m.Name+"("+strings.Join(m.Deps, " ")+")")
		if m.File != "/bield/modules/"+m.Name+".ko" {
			t.Errorf("file %s", m.File)
		}
	}
	want := []string{"failover()", "net_failover(failover)", "virtio_net(net_failover)", "virtio_rng()", "fuse()", "virtiofs(fuse)"}
	if !slices.Equal(order, want) {
		t.Errorf("got %v, want %v", order, want)
	}
	if !bytes.HasPrefix(got[2].content, []byte("\x7fELF")) {
		t.Error("a module is still packed")
	}
}

func TestCollectModulesErrors(t *testing.T) {
	files := fakeModules(t, nil, map[string]string{
		"a.ko": "b", "b.ko": "c", "c.ko": "a", "lost.ko": "nonsuch", "odd.ko.br": ""})
	files["kernel/text.ko"] = &fstest.MapFile{Data: []byte("no ELF")}
	files["kernel/bad.ko.xz"] = &fstest.MapFile{Data: []byte("no xz")}
	for name, want := range map[string]string{
		"a":       "depend on each other: a → b → c → a",
		"lost":    "lost needs kernel module nonsuch",
		"nonsuch": "kernel module nonsuch: file does not exist",
		"text":    "kernel module text: read ELF",
		"bad":     "kernel module bad: unpack",
		"odd":     `unknown compression ".br"`,
	} {
		if _, err := collect(t, files, wantedModule{name: name}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", name, err, want)
		}
	}
	if _, err := openModules(fstest.MapFS{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no modules at all: %v", err)
	}
}

func TestUnpackModuleIsBounded(t *testing.T) {
	packed := pack(t, make([]byte, maxModule+1), func(w io.Writer) (io.WriteCloser, error) { return openZstd(w) })
	if _, err := unpackModule(".zst", bytes.NewReader(packed)); err == nil {
		t.Error("no error for a module over the bound")
	}
}

func FuzzModuleDepends(f *testing.F) {
	f.Add(fakeModule("license=GPL", "depends=a,b-c", "name=x"))
	f.Add(fakeModule())
	f.Fuzz(func(t *testing.T, data []byte) {
		depends, err := moduleDepends(data)
		if err != nil && depends != nil {
			t.Error("dependencies beside an error")
		}
	})
}
