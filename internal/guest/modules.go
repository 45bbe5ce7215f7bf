package guest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"bield/internal/guestconfig"
)

// linkModules carry the guest link; they come first, wanted or not.
func linkModules(link guestconfig.Link) []string {
	carrier := "virtio_console"
	if link.VsockPort != 0 {
		carrier = "vmw_vsock_virtio_transport"
	}
	return []string{"virtio_mmio", "virtio_pci", carrier}
}

// loadOrder returns the modules for the wanted names and all they depend on,
// each once and behind what it needs. Names that are not in the list are
// skipped: they are built into the kernel.
func loadOrder(all guestconfig.Modules, wanted []string) guestconfig.Modules {
	byName := make(map[string]guestconfig.Module, len(all))
	for _, m := range all {
		byName[moduleName(m.Name)] = m
	}
	var order guestconfig.Modules
	seen := make(map[string]bool)
	var add func(name string)
	add = func(name string) {
		name = moduleName(name)
		m, ok := byName[name]
		if !ok || seen[name] {
			return
		}
		seen[name] = true // before the dependencies: a circle must end
		for _, d := range m.Deps {
			add(d)
		}
		order = append(order, m)
	}
	for _, name := range wanted {
		add(name)
	}
	return slices.Clip(order)
}

// moduleName is a name as in /proc/modules.
func moduleName(name string) string { return strings.ReplaceAll(name, "-", "_") }

// loadModules loads in the order given.
func loadModules(modules guestconfig.Modules) error {
	for _, m := range modules {
		if err := loadModule(m); err != nil {
			return err
		}
	}
	return nil
}

func loadModule(m guestconfig.Module) error {
	f, err := os.Open(m.File)
	if err != nil {
		return fmt.Errorf("load module %s: %w", m.Name, err)
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	switch {
	case err == nil, errors.Is(err, unix.EEXIST):
		return nil
	case errors.Is(err, unix.ENODEV):
		return nil // it drives hardware that this machine has not
	case errors.Is(err, unix.ENOEXEC), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("load module %s: %w: it is not for this kernel; build the image again", m.Name, err)
	default:
		return fmt.Errorf("load module %s: %w", m.Name, err)
	}
}
