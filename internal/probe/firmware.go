package probe

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// QEMU's firmware configuration device on a PC
// (https://www.qemu.org/docs/master/specs/fw_cfg.html): a selector of 16 bits at
// the first port, data a byte at a time from the next.
const (
	firmwarePort      = 0x510
	firmwareSignature = 0x00
	firmwareFiles     = 0x19
	maxFirmwareFiles  = 256
)

// onThread does it on a thread that ends with it: the leave to use ports is one's.
func onThread(do func() ([]byte, error)) (data []byte, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		data, err = do()
	}()
	<-done
	return data, err
}

// firmware lists the options in fw_cfg, each with the start of what is in it, as
// glob does; the other files are tables of the machine's. It asks the device and
// no driver of the guest's.
func firmware() ([]byte, error) {
	if err := allowPorts(firmwarePort, 2); err != nil {
		return nil, err
	}
	if string(readFirmware(firmwareSignature, 4)) != "QEMU" {
		return nil, unix.ENODEV
	}
	count := binary.BigEndian.Uint32(readFirmware(firmwareFiles, 4))
	if count > maxFirmwareFiles {
		return nil, unix.EOVERFLOW
	}
	// Of each: its size, selector, a reserved word, and its name.
	directory := readFirmware(firmwareFiles, 4+64*int(count))[4:]
	var list []byte
	for ; len(directory) > 0; directory = directory[64:] {
		name, _, _ := bytes.Cut(directory[8:64], []byte{0})
		if !bytes.HasPrefix(name, []byte("opt/")) {
			continue
		}
		size := min(binary.BigEndian.Uint32(directory), maxStart)
		content := readFirmware(binary.BigEndian.Uint16(directory[4:]), int(size))
		list = fmt.Appendf(list, "%s\t%s\n", name, bytes.Join(bytes.Fields(content), []byte{' '}))
	}
	return list, nil
}

func readFirmware(selector uint16, size int) []byte {
	outw(firmwarePort, selector)
	data := make([]byte, size)
	for i := range data {
		data[i] = inb(firmwarePort + 1)
	}
	return data
}
