package image

import (
	"fmt"
	"slices"
	"strings"

	"bield/internal/guestconfig"
)

// wantedModule is a module that a guest may need before it has its root.
type wantedModule struct {
	name string
	// optional modules are left out where the kernel does not have them.
	optional bool
}

// wantedModules are what the machines of QEMU and cloud-hypervisor offer, the
// root and the shares, the power button, and the guest link. They stand in the
// order in which they are best loaded.
func wantedModules() []wantedModule {
	return []wantedModule{
		{name: "virtio_mmio"},
		{name: "virtio_pci"},
		{name: "virtio_console"},
		{name: "virtio_blk"},
		{name: "virtio_net"},
		{name: "virtio_rng", optional: true},
		{name: "virtio_balloon", optional: true},
		{name: "virtiofs"},
		{name: "overlay"},
		// erofs checks sums by the crypto name crc32c, which is no dependency
		// that its .modinfo lists.
		{name: "crc32c_intel", optional: true},
		{name: "crc32c_generic", optional: true},
		{name: "erofs"},
		{name: "evdev", optional: true},
		{name: "button", optional: true},
		{name: "gpio_pl061", optional: true}, // the power button's line on arm64
		{name: "vmw_vsock_virtio_transport", optional: true},
	}
}

// modulePath is where a module lies in the initramfs.
func modulePath(name string) string { return "/bield/modules/" + name + ".ko" }

// collector gathers modules so that each stands behind what it depends on.
type collector struct {
	tree moduleTree
	out  []kernelModule
	// path is the chain of modules being visited, to see a cycle.
	path []string
}

// collectModules loads the wanted modules and all they depend on, in
// dependency order. Built-in modules are satisfied and left out.
func collectModules(tree moduleTree, wanted []wantedModule) ([]kernelModule, error) {
	c := collector{tree: tree}
	for _, w := range wanted {
		if w.optional && !tree.has(w.name) {
			continue
		}
		if err := c.visit(w.name); err != nil {
			return nil, err
		}
	}
	return c.out, nil
}

func (c *collector) visit(name string) error {
	done := slices.ContainsFunc(c.out, func(m kernelModule) bool { return m.name == name })
	// A name can be both: a module file wins, as with modprobe.
	if done || c.tree.builtin[name] && c.tree.byName[name] == "" {
		return nil
	}
	if slices.Contains(c.path, name) {
		return fmt.Errorf("kernel modules depend on each other: %s", strings.Join(append(c.path, name), " → "))
	}
	m, err := c.tree.load(name)
	if err != nil {
		return err
	}
	c.path = append(c.path, name)
	for _, dep := range m.depends {
		if err := c.visit(dep); err != nil {
			return fmt.Errorf("%s needs %w", name, err)
		}
	}
	c.path = c.path[:len(c.path)-1]
	// Built-in modules need no loading, so nobody has to know them.
	m.depends = slices.DeleteFunc(m.depends, func(d string) bool { return c.tree.byName[d] == "" })
	c.out = append(c.out, m)
	return nil
}

// moduleList is what the guest reads at guestconfig.ModulesPath.
func moduleList(modules []kernelModule) guestconfig.Modules {
	list := guestconfig.Modules{}
	for _, m := range modules {
		list = append(list, guestconfig.Module{Name: m.name, File: modulePath(m.name), Deps: m.depends})
	}
	return list
}
