package fakes

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"bield/internal/guestconfig"
)

// readGuestConfig finds the guest's configuration in its initramfs, which is
// several archives one behind the other; the last one that has it counts, as
// for the kernel.
func readGuestConfig(path string) (guestconfig.Config, error) {
	var c guestconfig.Config
	data, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("could not load initrd: %w", err)
	}
	var config []byte
	for len(data) > 0 {
		name, content, rest, err := nextRecord(data)
		if err != nil {
			return c, fmt.Errorf("unpack initramfs: %w", err)
		}
		if "/"+name == guestconfig.Path {
			config = content
		}
		data = rest
	}
	if config == nil {
		return c, fmt.Errorf("the initramfs has no %s", guestconfig.Path)
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return c, fmt.Errorf("%s: %w", guestconfig.Path, err)
	}
	return c, nil
}

// nextRecord reads one record of a newc archive (cpio(5)), and the zeros that
// follow an archive's last.
func nextRecord(data []byte) (name string, content, rest []byte, err error) {
	const header = 110
	if len(data) < header || string(data[:6]) != "070701" {
		return "", nil, nil, errors.New("no newc archive")
	}
	field := func(i int) int {
		n, fault := strconv.ParseUint(string(data[6+8*i:14+8*i]), 16, 31)
		err = errors.Join(err, fault)
		return int(n)
	}
	size, nameSize := field(6), field(11)
	begin := (header + nameSize + 3) &^ 3
	end := begin + size
	if err != nil || end > len(data) {
		return "", nil, nil, errors.Join(errors.New("broken record"), err)
	}
	name = strings.TrimRight(string(data[header:header+nameSize]), "\x00")
	rest = data[min((end+3)&^3, len(data)):]
	if name == "TRAILER!!!" {
		rest = []byte(strings.TrimLeft(string(rest), "\x00"))
	}
	return name, data[begin:end], rest, nil
}
