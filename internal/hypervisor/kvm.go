package hypervisor

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// kvmGetAPIVersion is KVM_GET_API_VERSION, _IO(0xAE, 0) of linux/kvm.h; the
	// answer has been 12 since Linux 2.6.20.
	kvmGetAPIVersion = 0xAE00
	kvmAPIVersion    = 12
)

// KVM says whether this host's KVM runs guests at full speed, and if not why.
func KVM() (usable bool, reason string) { return kvmBelow("/") }

// kvmBelow is KVM on the host whose /dev, /proc and /sys lie below root.
func kvmBelow(root string) (bool, string) {
	device := filepath.Join(root, "dev/kvm")
	if reason := askDevice(device); reason != "" {
		return false, reason
	}
	// A KVM in software opens and makes VMs like any other, but emulates the
	// guest's kernel instruction by instruction.
	if _, err := os.Stat(filepath.Join(root, "sys/module/kvm_pvm")); err == nil {
		return false, "/dev/kvm is KVM in software (kvm_pvm), far too slow for a Linux guest"
	}
	if runtime.GOARCH == "amd64" {
		if usable, reason := byCPU(root); !usable {
			return false, reason
		}
	}
	reason := askAccess(device)
	return reason == "", reason
}

// byCPU says whether an x86 CPU runs guests: it says so itself, or the module
// for it is there, which loads on no other. A CPU may be told to hide its flags.
func byCPU(root string) (bool, string) {
	for _, module := range []string{"kvm_intel", "kvm_amd"} {
		if _, err := os.Stat(filepath.Join(root, "sys/module", module)); err == nil {
			return true, ""
		}
	}
	cpuinfo, err := os.Open(filepath.Join(root, "proc/cpuinfo"))
	if err != nil {
		return false, err.Error()
	}
	defer cpuinfo.Close()
	if !virtualizes(cpuinfo) {
		return false, "/dev/kvm is there, but the CPU offers no virtualization (no vmx or svm in /proc/cpuinfo, no module kvm_intel or kvm_amd)"
	}
	return true, ""
}

func askDevice(path string) (reason string) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case err == unix.ENOENT:
		return "there is no /dev/kvm: load kvm_intel or kvm_amd, or enable virtualization in the firmware"
	case err != nil:
		return fmt.Sprintf("open /dev/kvm: %v", err)
	}
	defer unix.Close(fd)
	version, err := unix.IoctlRetInt(fd, kvmGetAPIVersion)
	if err != nil {
		return fmt.Sprintf("ask /dev/kvm for its version: %v", err)
	}
	if version != kvmAPIVersion {
		return fmt.Sprintf("/dev/kvm has version %d of its interface, not %d", version, kvmAPIVersion)
	}
	return ""
}

// askAccess says why VMMs, which run as users of their own, could not open it.
func askAccess(path string) (reason string) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fmt.Sprintf("look at /dev/kvm: %v", err)
	}
	if _, open := kvmGroup(st); !open {
		return fmt.Sprintf("/dev/kvm is its owner's alone (mode %04o), and VMs run as others: sudo chgrp kvm /dev/kvm && sudo chmod 660 /dev/kvm", st.Mode&0o7777)
	}
	return ""
}

// KVMGroup is the group that may open /dev/kvm; needed says that others may not.
func KVMGroup() (gid uint32, needed bool) {
	var st unix.Stat_t
	if unix.Stat("/dev/kvm", &st) != nil {
		return 0, false
	}
	gid, open := kvmGroup(st)
	return gid, open && gid != 0
}

// kvmGroup is the group that opens the device, 0 if none is needed.
func kvmGroup(st unix.Stat_t) (gid uint32, open bool) {
	switch {
	case st.Mode&0o006 == 0o006:
		return 0, true
	case st.Mode&0o060 == 0o060 && st.Gid != 0:
		return st.Gid, true
	}
	return 0, false
}

// virtualizes looks for vmx (Intel) or svm (AMD) among the first CPU's flags.
func virtualizes(cpuinfo io.Reader) bool {
	lines := bufio.NewScanner(cpuinfo)
	for lines.Scan() {
		if key, flags, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == "flags" {
			words := strings.Fields(flags)
			return slices.Contains(words, "vmx") || slices.Contains(words, "svm")
		}
	}
	return false
}
