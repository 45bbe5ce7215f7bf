package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// On arm64 a kernel that is started without firmware finds the power button in
// the device tree, as a line of a GPIO chip. Kernels made for virtual machines
// have the chip's driver and not always that of keys (gpio_keys), which would
// make an input device of it: then this reads the line.

// gpioButton is where the device tree has a power button.
type gpioButton struct {
	chip      string // the chip's device, in /dev
	line      uint32
	activeLow bool
}

// cellSize is the size of a cell of a device tree; all are big endian.
const cellSize = 4

// findGPIOButton looks below /sys.
func findGPIOButton(sys string) (gpioButton, error) {
	codes, _ := filepath.Glob(filepath.Join(sys, "firmware/devicetree/base/gpio-keys/*/linux,code"))
	for _, path := range codes {
		if code, err := readCells(path, 1); err != nil || code[0] != keyPower {
			continue
		}
		// A reference to the chip, the line, and flags (gpio-controller bindings
		// with two cells: arm,pl061).
		gpio, err := readCells(filepath.Join(filepath.Dir(path), "gpios"), 3)
		if err != nil {
			return gpioButton{}, err
		}
		chip, err := findGPIOChip(sys, gpio[0])
		return gpioButton{chip: chip, line: gpio[1], activeLow: gpio[2]&1 != 0}, err
	}
	return gpioButton{}, errors.New("no power button in the device tree")
}

func findGPIOChip(sys string, phandle uint32) (string, error) {
	paths, _ := filepath.Glob(filepath.Join(sys, "bus/gpio/devices/gpiochip*/of_node/phandle"))
	for _, path := range paths {
		if own, err := readCells(path, 1); err == nil && own[0] == phandle {
			return filepath.Base(filepath.Dir(filepath.Dir(path))), nil
		}
	}
	return "", fmt.Errorf("no GPIO chip has phandle %d", phandle)
}

func readCells(path string, n int) ([]uint32, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(b) != n*cellSize {
		return nil, fmt.Errorf("%s has %d bytes, not %d cells", path, len(b), n)
	}
	cells := make([]uint32, n)
	for i := range cells {
		cells[i] = binary.BigEndian.Uint32(b[i*cellSize:])
	}
	return cells, nil
}

// Structures and flags of linux/gpio.h, version 2.
type (
	gpioLineConfig struct {
		flags uint64
		_     [6]uint32     // number of attributes, padding
		_     [10][3]uint64 // attributes
	}
	gpioLineRequest struct {
		offsets  [64]uint32
		consumer [32]byte
		config   gpioLineConfig
		numLines uint32
		_        [6]uint32 // size of the event buffer, padding
		fd       int32
	}
)

// gpioEventSize is the size of struct gpio_v2_line_event.
const gpioEventSize = 48

const (
	gpioActiveLow  = 1 << 1
	gpioInput      = 1 << 2
	gpioEdgeRising = 1 << 4
	// gpioGetLine is GPIO_V2_GET_LINE_IOCTL, _IOWR(0xB4, 7, struct gpio_v2_line_request).
	gpioGetLine = 3<<30 | unsafe.Sizeof(gpioLineRequest{})<<16 | 0xB4<<8 | 7
)

// openGPIOButton returns what an event can be read from at each press.
func openGPIOButton() (*os.File, error) {
	b, err := findGPIOButton("/sys")
	if err != nil {
		return nil, err
	}
	chip, err := os.OpenFile(filepath.Join("/dev", b.chip), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer chip.Close()
	r := gpioLineRequest{numLines: 1, config: gpioLineConfig{flags: gpioInput | gpioEdgeRising}}
	r.offsets[0] = b.line
	copy(r.consumer[:], "bield-init")
	if b.activeLow {
		r.config.flags |= gpioActiveLow
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, chip.Fd(), gpioGetLine, uintptr(unsafe.Pointer(&r))); errno != 0 {
		return nil, fmt.Errorf("watch line %d of %s: %w", b.line, b.chip, errno) // EBUSY: it is an input device
	}
	if err := unix.SetNonblock(int(r.fd), true); err != nil { // for the runtime's poller
		_ = unix.Close(int(r.fd))
		return nil, err
	}
	return os.NewFile(uintptr(r.fd), "power button"), nil
}

// readGPIOButton reads events, each a press, until the device is gone.
func readGPIOButton(r io.Reader, pressed func()) error {
	buf := make([]byte, 16*gpioEventSize)
	for {
		n, err := r.Read(buf)
		for ; n >= gpioEventSize; n -= gpioEventSize {
			pressed()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
