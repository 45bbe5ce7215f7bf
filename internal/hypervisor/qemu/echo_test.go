package qemu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"bield/internal/hypervisor"
)

// realDriver is QEMU without KVM, for guests of an architecture.
func realDriver(t *testing.T, arch string) *Driver {
	t.Helper()
	if arch == "amd64" && !hasTSC {
		t.Skip("a guest's clock of x86 is the host's, which has none")
	}
	d := New("", false)
	d.arch = arch
	if _, err := d.Find(); err != nil {
		skip(t, err.Error())
	}
	return d
}

// echoKernel writes a guest that sends back what it gets on the serial line, and
// resets the machine at 'q'.
func echoKernel(t *testing.T, m hypervisor.Machine, arch string) {
	t.Helper()
	kernel := echoX86()
	if arch == "arm64" {
		kernel = echoARM()
	}
	if err := errors.Join(os.WriteFile(m.Kernel, kernel, 0o644), os.WriteFile(m.Initrd, make([]byte, 512), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// echoX86 is an ELF with a PVH note (Xen's type 18, the 32-bit entry point).
func echoX86() []byte {
	code := []byte{
		0x66, 0xBA, 0xFD, 0x03, 0xEC, 0xA8, 0x01, 0x74, 0xF7, // wait for a byte: line status at COM1+5
		0x66, 0xBA, 0xF8, 0x03, 0xEC, // al = in dx
		0x3C, 'q', 0x74, 0x03, // 'q': leave the loop
		0xEE, 0xEB, 0xE9, // out dx, al; again
		0x6A, 0x00, 0x6A, 0x00, 0x0F, 0x01, 0x1C, 0x24, 0xCC, // an empty IDT and int3: triple fault
	}
	const load, headers = 0x100000, 64 + 2*56
	note := new(bytes.Buffer)
	write := func(to *bytes.Buffer, values ...any) {
		for _, v := range values {
			_ = binary.Write(to, binary.LittleEndian, v)
		}
	}
	write(note, uint32(4), uint32(8), uint32(18), []byte("Xen\x00"), uint64(load))
	elf := new(bytes.Buffer)
	write(elf, []byte("\x7fELF\x02\x01\x01"), make([]byte, 9), uint16(2), uint16(62), uint32(1), uint64(load),
		uint64(64), uint64(0), uint32(0), uint16(64), uint16(56), uint16(2), uint16(0), uint16(0), uint16(0))
	segment := func(kind, flags uint32, offset, address, size uint64) {
		write(elf, kind, flags, offset, address, address, size, size, uint64(4))
	}
	segment(1, 5, headers, load, uint64(len(code)))
	segment(4, 4, headers+uint64(len(code)), load+uint64(len(code)), uint64(note.Len()))
	write(elf, code, note.Bytes())
	return elf.Bytes()
}

// echoARM is an Image (the kernel's Documentation/arch/arm64/booting.rst) for
// the PL011 of QEMU's machine virt, at 0x9000000.
func echoARM() []byte {
	const header = 64
	code := []uint32{
		0xD2A12001, // movz x1, #0x900, lsl #16
		0xB9401822, // 1: ldr w2, [x1, #0x18], the flags
		0x3727FFE2, // tbnz w2, #4, 1b: nothing received
		0xB9400022, // ldr w2, [x1]
		0x7101C45F, // cmp w2, #'q'
		0x54000060, // b.eq 2f
		0xB9000022, // str w2, [x1]
		0x17FFFFFA, // b 1b
		0x52B08000, // 2: mov w0, #0x84000000
		0x72800120, // movk w0, #9: PSCI's SYSTEM_RESET
		0xD4000002, // hvc #0
		0x14000000, // b .
	}
	image := make([]byte, header)
	binary.LittleEndian.PutUint32(image, 0x14000000+header/4) // b to the code
	binary.LittleEndian.PutUint64(image[0x10:], uint64(header+4*len(code)))
	copy(image[0x38:], "ARM\x64")
	for _, word := range code {
		image = binary.LittleEndian.AppendUint32(image, word)
	}
	return image
}
