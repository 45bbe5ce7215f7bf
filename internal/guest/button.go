package guest

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Of linux/input-event-codes.h.
const (
	evKey    = 1
	keyPower = 116
)

// eventSize is the size of struct input_event on 64 bit (linux/input.h): two
// longs of time, type, code, value.
const eventSize = int(2*unsafe.Sizeof(uintptr(0))) + 8

// watchButtons watches every input device, also those that come later, and a
// button that is none, and calls pressed for each press of a power button. It
// returns when ctx is done.
func watchButtons(ctx context.Context, pressed func()) {
	var wg sync.WaitGroup
	defer wg.Wait()
	events, err := openUevents()
	if err != nil {
		return
	}
	defer events.close()
	defer context.AfterFunc(ctx, events.close)()
	watched := make(map[string]bool)
	gpio := false
	for {
		if !gpio {
			if f, err := openGPIOButton(); err == nil {
				gpio = true
				wg.Go(func() { watchDevice(ctx, f, readGPIOButton, pressed) })
			}
		}
		devices, _ := filepath.Glob("/dev/input/event*")
		for _, d := range devices {
			if watched[d] {
				continue
			}
			f, err := os.OpenFile(d, os.O_RDONLY|unix.O_NONBLOCK, 0)
			if err != nil {
				continue
			}
			watched[d] = true
			wg.Go(func() { watchDevice(ctx, f, readButton, pressed) })
		}
		if events.next() != nil {
			return
		}
	}
}

func watchDevice(ctx context.Context, f *os.File, read func(io.Reader, func()) error, pressed func()) {
	defer f.Close()
	defer context.AfterFunc(ctx, func() { _ = f.Close() })()
	_ = read(f, pressed)
}

// readButton reads input events until the device is gone.
func readButton(r io.Reader, pressed func()) error {
	buf := make([]byte, 64*eventSize)
	for {
		n, err := r.Read(buf)
		for e := buf[:n]; len(e) >= eventSize; e = e[eventSize:] {
			if isPowerPress(e[:eventSize]) {
				pressed()
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

func isPowerPress(e []byte) bool {
	e = e[eventSize-8:]
	return binary.NativeEndian.Uint16(e) == evKey &&
		binary.NativeEndian.Uint16(e[2:]) == keyPower &&
		binary.NativeEndian.Uint32(e[4:]) == 1
}
