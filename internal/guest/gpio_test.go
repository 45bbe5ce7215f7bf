package guest

import (
	"bytes"
	"strings"
	"testing"
	"unsafe"
)

// TestGPIORequest holds it to its size in linux/gpio.h: the kernel takes no call
// with another.
func TestGPIORequest(t *testing.T) {
	if got := unsafe.Sizeof(gpioLineRequest{}); got != 592 {
		t.Errorf("a request has %d bytes", got)
	}
	if got := uint64(gpioGetLine); got != 0xC250B407 {
		t.Errorf("the call is %#x", got)
	}
}

func cells(values ...byte) string {
	var b strings.Builder
	for _, v := range values {
		b.Write([]byte{0, 0, 0, v})
	}
	return b.String()
}

func TestFindGPIOButton(t *testing.T) {
	const keys, chips = "/firmware/devicetree/base/gpio-keys/", "/bus/gpio/devices/"
	tree := map[string]string{
		keys + "sleep/linux,code": cells(142), keys + "sleep/gpios": cells(9, 1, 0),
		keys + "poweroff/linux,code": cells(116), keys + "poweroff/gpios": cells(9, 3, 1), keys + "compatible": "gpio-keys",
		chips + "gpiochip0/of_node/phandle": cells(8), chips + "gpiochip1/of_node/phandle": cells(9),
	}
	got, err := findGPIOButton(string(fill(t, tree)))
	if want := (gpioButton{chip: "gpiochip1", line: 3, activeLow: true}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for name, change := range map[string]string{"no chip": chips + "gpiochip1/of_node/phandle", "other cells": keys + "poweroff/gpios", "no key": keys + "poweroff/linux,code"} {
		changed := map[string]string{}
		for path, text := range tree {
			changed[path] = text
		}
		changed[change] = cells(1, 2)
		if got, err := findGPIOButton(string(fill(t, changed))); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if _, err := findGPIOButton(t.TempDir()); err == nil {
		t.Error("a button of no device tree")
	}
}

func TestReadGPIOButton(t *testing.T) {
	n := 0
	if err := readGPIOButton(bytes.NewReader(make([]byte, 3*gpioEventSize)), func() { n++ }); err != nil || n != 3 {
		t.Errorf("%d presses, %v", n, err)
	}
}
