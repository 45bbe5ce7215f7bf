package image

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxModule bounds one unpacked kernel module, maxModinfo its .modinfo.
const (
	maxModule  = 64 << 20
	maxModinfo = 1 << 20
)

// kernelModule is one module file of a kernel.
type kernelModule struct {
	name    string
	content []byte
	depends []string
}

// moduleTree is lib/modules/RELEASE: where each module lies and what the
// kernel has built in.
type moduleTree struct {
	files   fs.FS
	byName  map[string]string
	builtin map[string]bool
}

// moduleName is the form of /proc/modules: no suffix, underscores.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

func openModules(files fs.FS) (moduleTree, error) {
	t := moduleTree{files: files, byName: map[string]string{}, builtin: map[string]bool{}}
	info, err := fs.Stat(files, "modules.builtin")
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxModule) {
		err = errors.New("modules.builtin is no list")
	}
	if err != nil {
		return t, fmt.Errorf("list built-in modules: %w", err)
	}
	list, err := fs.ReadFile(files, "modules.builtin")
	if err != nil {
		return t, fmt.Errorf("list built-in modules: %w", err)
	}
	for line := range strings.Lines(string(list)) {
		t.builtin[moduleName(strings.TrimSpace(line))] = true
	}
	err = fs.WalkDir(files, "kernel", func(file string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.Contains(path.Base(file), ".ko") {
			t.byName[moduleName(file)] = file
		}
		return err
	})
	if err != nil {
		return t, fmt.Errorf("list kernel modules: %w", err)
	}
	return t, nil
}

// has says whether the kernel offers the module, built in or not.
func (t moduleTree) has(name string) bool { return t.builtin[name] || t.byName[name] != "" }

// load reads a module, unpacks it and takes its dependencies from it.
func (t moduleTree) load(name string) (kernelModule, error) {
	file, ok := t.byName[name]
	if !ok {
		return kernelModule{}, fmt.Errorf("kernel module %s: %w", name, fs.ErrNotExist)
	}
	packed, err := t.files.Open(file)
	if err != nil {
		return kernelModule{}, fmt.Errorf("kernel module %s: %w", name, err)
	}
	defer packed.Close()
	content, err := unpackModule(path.Ext(file), packed)
	if err != nil {
		return kernelModule{}, fmt.Errorf("kernel module %s: unpack: %w", name, err)
	}
	depends, err := moduleDepends(content)
	if err != nil {
		return kernelModule{}, fmt.Errorf("kernel module %s: %w", name, err)
	}
	return kernelModule{name: name, content: content, depends: depends}, nil
}

func unpackModule(ext string, packed io.Reader) ([]byte, error) {
	var reader io.Reader
	var err error
	switch ext {
	case ".ko":
		reader = packed
	case ".xz":
		reader, err = xz.NewReader(packed)
	case ".gz":
		reader, err = gzip.NewReader(packed)
	case ".zst":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxModule)); err == nil {
			defer z.Close()
			reader = z
		}
	default:
		err = fmt.Errorf("unknown compression %q", ext)
	}
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(reader, maxModule+1))
	if err == nil && len(content) > maxModule {
		err = errors.New("is larger than 64 MiB")
	}
	return content, err
}

// moduleDepends reads the `depends=` entry of a module's .modinfo section: a
// list of strings KEY=VALUE, each with a zero byte behind it.
func moduleDepends(content []byte) ([]string, error) {
	info, err := modinfo(content)
	if err != nil {
		return nil, err
	}
	for entry := range bytes.SplitSeq(info, []byte{0}) {
		list, ok := strings.CutPrefix(string(entry), "depends=")
		if !ok || list == "" {
			continue
		}
		var depends []string
		for name := range strings.SplitSeq(list, ",") {
			depends = append(depends, moduleName(name))
		}
		return depends, nil
	}
	return nil, nil
}

func modinfo(content []byte) ([]byte, error) {
	file, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("read ELF: %w", err)
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, errors.New("has no .modinfo section")
	}
	if section.Type != elf.SHT_PROGBITS || section.Flags&elf.SHF_COMPRESSED != 0 || section.Size > maxModinfo {
		return nil, errors.New("has an odd .modinfo section")
	}
	data, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("read .modinfo: %w", err)
	}
	return data, nil
}
