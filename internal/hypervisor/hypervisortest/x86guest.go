package hypervisortest

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Board is the part of an x86 machine that its guest has to know.
type Board struct {
	// button is the machine code that goes on at the label "off" once the power
	// button was pressed; off that which powers off.
	button, off []line
}

// QEMUMicrovm is QEMU's machine microvm,acpi=on. The generic event device tells of
// the button in a register that is clear after a look, and takes the sleep state S5
// in another: include/hw/i386/microvm.h, include/hw/acpi/generic_event_device.h.
func QEMUMicrovm() Board {
	return Board{
		button: []line{
			{code: []byte{0xA1, 0x00, 0x00, 0xA0, 0xFE}}, // mov eax, [0xfea00000]: the events
			{code: []byte{0xA8, 0x02}},                   // test al, ACPI_GED_PWR_DOWN_EVT
			{code: []byte{0x75}, to: "off"},              // jnz off
		},
		off: []line{
			{code: []byte{0xC6, 0x05, 0x00, 0x02, 0xA0, 0xFE, 0x34}}, // mov byte [0xfea00200], SLP_EN | 5<<2
		},
	}
}

// CloudHypervisor is its x86 machine: AcpiShutdownDevice of devices/src/acpi.rs,
// which vmm/src/device_manager.rs puts at I/O port 0x600. Its button can be had
// by an interrupt and a device found in ACPI's tables: not for this guest.
func CloudHypervisor() Board {
	return Board{
		off: []line{
			{code: []byte{0x66, 0xBA, 0x00, 0x06}}, // mov dx, 0x600
			{code: []byte{0xB0, 0x34}},             // mov al, SLEEP_STATUS_EN | 5<<2
			{code: []byte{0xEE}},                   // out dx, al
		},
	}
}

// line is one instruction: what stands before it, its bytes, and the label that the
// relative byte at its end leads to.
type line struct {
	label string
	code  []byte
	to    string
}

// loadAddress is where the guest lies: the first MiB is the firmware's.
const loadAddress = 0x100000

// program is the guest. It is begun in 32-bit protected mode without paging, all
// segments flat and interrupts off: xen/include/public/arch-x86/hvm/start_info.h.
// It polls COM1, a 16550: 0x3f8 is its data, 0x3fd its line status.
func program(b Board) []line {
	lines := []line{
		{code: []byte{0xBC, 0x00, 0x00, 0x18, 0x00}}, // mov esp, 0x180000
		{code: textAddress()},                        // mov esi, the greeting
		{label: "greet", code: []byte{0xAC}},         // lodsb
		{code: []byte{0x84, 0xC0}},                   // test al, al
		{code: []byte{0x74}, to: "poll"},             // jz poll
		{code: []byte{0x88, 0xC3}},                   // mov bl, al
		{label: "greetWait", code: portStatus()},     // mov dx, 0x3fd
		{code: []byte{0xEC}},                         // in al, dx
		{code: []byte{0xA8, 0x20}},                   // test al, 0x20: may it be written?
		{code: []byte{0x74}, to: "greetWait"},        // jz greetWait
		{code: portData()},                           // mov dx, 0x3f8
		{code: []byte{0x88, 0xD8}},                   // mov al, bl
		{code: []byte{0xEE}},                         // out dx, al
		{code: []byte{0xEB}, to: "greet"},            // jmp greet
	}
	lines = append(lines, labelled("poll", b.button)...)
	lines = append(lines, []line{
		{label: pollLabel(b), code: portStatus()},              // mov dx, 0x3fd
		{code: []byte{0xEC}},                                   // in al, dx
		{code: []byte{0xA8, 0x01}},                             // test al, 1: is there a byte?
		{code: []byte{0x74}, to: "poll"},                       // jz poll
		{code: portData()},                                     // mov dx, 0x3f8
		{code: []byte{0xEC}},                                   // in al, dx
		{code: []byte{0x3C, KernelGuest().Reset[0]}},           // cmp al, reset
		{code: []byte{0x74}, to: "reset"},                      // je reset
		{code: []byte{0x3C, KernelGuest().PowerOff[0]}},        // cmp al, power off
		{code: []byte{0x74}, to: "off"},                        // je off
		{code: []byte{0x3C, KernelGuest().Spin[0]}},            // cmp al, spin
		{label: "spin", code: []byte{0x74}, to: "spin"},        // je spin: nothing changes the flag
		{code: []byte{0x88, 0xC3}},                             // mov bl, al
		{label: "echoWait", code: portStatus()},                // mov dx, 0x3fd
		{code: []byte{0xEC}},                                   // in al, dx
		{code: []byte{0xA8, 0x20}},                             // test al, 0x20
		{code: []byte{0x74}, to: "echoWait"},                   // jz echoWait
		{code: portData()},                                     // mov dx, 0x3f8
		{code: []byte{0x88, 0xD8}},                             // mov al, bl
		{code: []byte{0xEE}},                                   // out dx, al: back it goes
		{code: []byte{0xEB}, to: "poll"},                       // jmp poll
		{label: "reset", code: []byte{0x6A, 0x00, 0x6A, 0x00}}, // push 0, push 0: an empty IDT
		{code: []byte{0x0F, 0x01, 0x1C, 0x24}},                 // lidt [esp]
		{code: []byte{0xCC}},                                   // int3: a triple fault
	}...)
	lines = append(lines, labelled("off", b.off)...)
	return append(lines, line{label: "end", code: []byte{0xEB}, to: "end"}) // jmp end
}

func portData() []byte   { return []byte{0x66, 0xBA, 0xF8, 0x03} }
func portStatus() []byte { return []byte{0x66, 0xBA, 0xFD, 0x03} }

// textAddress is mov esi, imm32; the greeting lies a page behind the code.
func textAddress() []byte {
	return binary.LittleEndian.AppendUint32([]byte{0xBE}, loadAddress+textOffset)
}

const textOffset = 0x1000

// labelled puts a label before some lines.
func labelled(label string, lines []line) []line {
	if len(lines) == 0 {
		return nil
	}
	first := lines[0]
	first.label = label
	return append([]line{first}, lines[1:]...)
}

// pollLabel is "poll" where no look for the button stands there before.
func pollLabel(b Board) string {
	if len(b.button) == 0 {
		return "poll"
	}
	return ""
}

// assemble joins lines and fills in where their jumps lead.
func assemble(lines []line) ([]byte, error) {
	at := map[string]int{}
	size := 0
	for _, l := range lines {
		if l.label != "" {
			at[l.label] = size
		}
		size += len(l.code)
		if l.to != "" {
			size++
		}
	}
	var code []byte
	for _, l := range lines {
		code = append(code, l.code...)
		if l.to == "" {
			continue
		}
		target, ok := at[l.to]
		distance := target - len(code) - 1
		if !ok || distance < -128 || distance > 127 {
			return nil, fmt.Errorf("no short jump to %q", l.to)
		}
		code = append(code, byte(int8(distance)))
	}
	return code, nil
}

// Kernel is a guest for x86 that greets on its first serial port, sends back what
// it gets there, and does what KernelGuest says. It powers off at the power button
// where the board has one for it. It is an ELF with the PVH note of Xen (type 18,
// the 32-bit entry point).
func Kernel(b Board) ([]byte, error) {
	code, err := assemble(program(b))
	if err != nil {
		return nil, err
	}
	body := make([]byte, textOffset+len(greeting)+1)
	copy(body, code)
	copy(body[textOffset:], greeting)

	const headers = 64 + 2*56
	note := new(bytes.Buffer)
	put(note, uint32(4), uint32(8), uint32(18), []byte("Xen\x00"), uint64(loadAddress))
	elf := new(bytes.Buffer)
	put(elf, []byte("\x7fELF\x02\x01\x01"), make([]byte, 9), uint16(2), uint16(62), uint32(1), uint64(loadAddress),
		uint64(64), uint64(0), uint32(0), uint16(64), uint16(56), uint16(2), uint16(0), uint16(0), uint16(0))
	segment(elf, 1, 5, headers, loadAddress, uint64(len(body)))
	segment(elf, 4, 4, headers+uint64(len(body)), loadAddress+uint64(len(body)), uint64(note.Len()))
	put(elf, body, note.Bytes())
	return elf.Bytes(), nil
}

// segment writes a program header (elf(5)).
func segment(to *bytes.Buffer, kind, flags uint32, offset, address, size uint64) {
	put(to, kind, flags, offset, address, address, size, size, uint64(4))
}

func put(to *bytes.Buffer, values ...any) {
	for _, v := range values {
		_ = binary.Write(to, binary.LittleEndian, v) // to memory
	}
}
