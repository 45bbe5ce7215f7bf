package hypervisortest

import (
	"encoding/binary"
	"fmt"
)

// word is one instruction of arm64, with the label that stands before it and the
// one that it leads to.
type word struct {
	label string
	code  uint32
	field distance
	to    string
}

// distance is where in an instruction the way to a label stands, in words: bits at
// shift (Arm Architecture Reference Manual, C6.2).
type distance struct{ shift, bits int }

// The kinds of branches.
func near() distance   { return distance{5, 14} } // tbz, tbnz
func far() distance    { return distance{5, 19} } // cbz, b.cond; adr, if the label is at a whole word
func always() distance { return distance{0, 26} } // b

// programARM is the guest of QEMU's machine virt, without its MMU. It polls the
// PL011, a serial port at 0x9000000 (0: data, 0x18: flags), and the PL061 at
// 0x9030000, whose pin 3 is the power button: hw/arm/virt.c.
func programARM() []word {
	return []word{
		{code: 0xD2A12001},                                           // movz x1, #0x900, lsl #16: the PL011
		{code: 0xD2A12063},                                           // movz x3, #0x903, lsl #16: the PL061
		{code: 0x10000004, field: far(), to: "text"},                 // adr x4, text
		{label: "greet", code: 0x38401482},                           // ldrb w2, [x4], #1
		{code: 0x34000002, field: far(), to: "poll"},                 // cbz w2, poll
		{label: "greetWait", code: 0xB9401825},                       // ldr w5, [x1, #0x18]
		{code: 0x37280005, field: near(), to: "greetWait"},           // tbnz w5, #5, greetWait: it is full
		{code: 0xB9000022},                                           // str w2, [x1]
		{code: 0x14000000, field: always(), to: "greet"},             // b greet
		{label: "poll", code: 0xB9402065},                            // ldr w5, [x3, #0x20]: pin 3 alone
		{code: 0x37180005, field: near(), to: "off"},                 // tbnz w5, #3, off
		{code: 0xB9401825},                                           // ldr w5, [x1, #0x18]
		{code: 0x37200005, field: near(), to: "poll"},                // tbnz w5, #4, poll: nothing received
		{code: 0xB9400022},                                           // ldr w2, [x1]
		{code: compareW2(KernelGuest().Reset)},                       // cmp w2, reset
		{code: 0x54000000, field: far(), to: "reset"},                // b.eq reset
		{code: compareW2(KernelGuest().PowerOff)},                    // cmp w2, power off
		{code: 0x54000000, field: far(), to: "off"},                  // b.eq off
		{code: compareW2(KernelGuest().Spin)},                        // cmp w2, spin
		{label: "spin", code: 0x54000000, field: far(), to: "spin"},  // b.eq spin
		{label: "echoWait", code: 0xB9401825},                        // ldr w5, [x1, #0x18]
		{code: 0x37280005, field: near(), to: "echoWait"},            // tbnz w5, #5, echoWait
		{code: 0xB9000022},                                           // str w2, [x1]: back it goes
		{code: 0x14000000, field: always(), to: "poll"},              // b poll
		{label: "reset", code: 0x52B08000},                           // mov w0, #0x84000000
		{code: 0x72800120},                                           // movk w0, #9: PSCI's SYSTEM_RESET
		{code: 0xD4000002},                                           // hvc #0
		{label: "off", code: 0x52B08000},                             // mov w0, #0x84000000
		{code: 0x72800100},                                           // movk w0, #8: PSCI's SYSTEM_OFF
		{code: 0xD4000002},                                           // hvc #0
		{label: "end", code: 0x14000000, field: always(), to: "end"}, // b end
	}
}

// compareW2 is cmp w2 with an order's only byte.
func compareW2(order string) uint32 { return 0x7100005F | uint32(order[0])<<10 }

// assembleARM joins words and fills in where they lead. The label "text" is their
// end.
func assembleARM(words []word) ([]byte, error) {
	at := map[string]int{"text": len(words)}
	for i, w := range words {
		if w.label != "" {
			at[w.label] = i
		}
	}
	var code []byte
	for i, w := range words {
		if w.to != "" {
			target, ok := at[w.to]
			way := target - i
			if !ok || way >= 1<<(w.field.bits-1) || way < -1<<(w.field.bits-1) {
				return nil, fmt.Errorf("no way to %q", w.to)
			}
			w.code |= uint32(way) & (1<<w.field.bits - 1) << w.field.shift
		}
		code = binary.LittleEndian.AppendUint32(code, w.code)
	}
	return code, nil
}

// KernelARM is the guest of Kernel for QEMU's arm64 machine: an Image (the kernel's
// Documentation/arch/arm64/booting.rst).
func KernelARM() ([]byte, error) {
	code, err := assembleARM(programARM())
	if err != nil {
		return nil, err
	}
	const header = 64
	image := make([]byte, header)
	binary.LittleEndian.PutUint32(image, 0x14000000+header/4) // b to the code
	copy(image[0x38:], "ARM\x64")
	image = append(append(append(image, code...), greeting...), 0)
	binary.LittleEndian.PutUint64(image[0x10:], uint64(len(image)))
	return image, nil
}
