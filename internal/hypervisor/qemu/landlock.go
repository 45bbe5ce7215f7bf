package qemu

import (
	"path/filepath"
	"slices"

	"bield/internal/hypervisor"
	"bield/internal/process"
)

// landlock is what QEMU may open by itself. All else it is handed as descriptors,
// or connects to: virtiofsd's sockets, which Landlock does not know.
func (d *Driver) landlock(program string, m hypervisor.Machine) *process.Landlock {
	l := &process.Landlock{
		Files: true,
		Exec:  programFiles(program),
		Read:  []string{"/etc/ld.so.cache", m.Kernel, m.Initrd},
		Write: slices.Concat([]string{"/dev/null"}, d.Writes),
	}
	if m.RootDisk != "" {
		l.Read = append(l.Read, m.RootDisk)
	}
	if d.kvm {
		l.Write = append(l.Write, "/dev/kvm")
	}
	return l
}

// programFiles are the program, its libraries and its data (firmware, on x86): the
// system's, which hold nobody's secrets, and what lies beside a program that is
// installed elsewhere. NixOS and Guix have theirs in stores.
func programFiles(program string) []string {
	files := []string{"/usr", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store"}
	for _, path := range []string{program, resolved(program)} {
		dir := filepath.Dir(path)
		files = append(files, path, dir, filepath.Join(dir, "../share/qemu"), filepath.Join(dir, "../lib"))
	}
	slices.Sort(files)
	return slices.Compact(files)
}

// resolved is the path without symbolic links, or the path.
func resolved(path string) string {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return path
	}
	return target
}
