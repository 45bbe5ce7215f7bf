package fakes

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// release is the kernel of the images.
const release = "6.1.0-fake"

// builtin are the modules that bield asks of a kernel: this one has them all
// built in, so that there is no module file to make.
const builtin = "virtio_mmio virtio_pci virtio_console virtio_blk virtio_net virtio_rng virtio_balloon " +
	"virtiofs overlay erofs evdev button crc32c_generic"

// runMmdebstrap makes the smallest tree that passes for a Debian. Its last
// arguments are SUITE ROOT -.
func runMmdebstrap(_ string, p Plan, args []string) error {
	if len(args) < 3 {
		return fmt.Errorf("no SUITE ROOT - on the command line: %q", args)
	}
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "I: installing packages...")
	switch {
	case p.Mmdebstrap.Fail != "":
		return errors.New(p.Mmdebstrap.Fail)
	case p.Mmdebstrap.Hang:
		forever()
	}
	root := args[len(args)-2]
	modules := filepath.Join(root, "usr/lib/modules", release)
	for _, dir := range []string{filepath.Join(modules, "kernel"), filepath.Join(root, "etc")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	var list strings.Builder
	for name := range strings.FieldsSeq(builtin) {
		list.WriteString("kernel/" + name + ".ko\n")
	}
	if err := os.WriteFile(filepath.Join(modules, "modules.builtin"), []byte(list.String()), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(filepath.Dir(root), "work", "vmlinuz"), vmlinuz(runtime.GOARCH), 0o644)
}

// vmlinuz is the smallest kernel file of an architecture.
func vmlinuz(arch string) []byte {
	if arch == "arm64" {
		return imageARM64()
	}
	return bzImage()
}

// imageARM64 is the header of an Image alone, as Documentation/arch/arm64/booting.rst
// has it.
func imageARM64() []byte {
	image := make([]byte, 64)
	binary.LittleEndian.PutUint64(image[0x10:], uint64(len(image)))
	copy(image[0x38:], "ARM\x64")
	return image
}

// bzImage is the smallest file that a kernel can be taken out of; the offsets
// are those of Documentation/arch/x86/boot.rst.
func bzImage() []byte {
	elf := make([]byte, 64)
	copy(elf, "\x7fELF\x02\x01")
	binary.LittleEndian.PutUint16(elf[18:], 62) // EM_X86_64
	payload := binary.LittleEndian.AppendUint32(bytes.Clone(elf), uint32(len(elf)))
	const sectors = 4
	image := make([]byte, (sectors+1)*512)
	image[0x1f1] = sectors
	copy(image[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(image[0x206:], 0x020f)
	binary.LittleEndian.PutUint32(image[0x248:], 0)
	binary.LittleEndian.PutUint32(image[0x24c:], uint32(len(payload)))
	return append(image, payload...)
}
