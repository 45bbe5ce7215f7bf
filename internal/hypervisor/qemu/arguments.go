package qemu

import (
	"fmt"
	"strings"

	"bield/internal/guestconfig"
	"bield/internal/hypervisor"
)

// Descriptors that QEMU inherits.
const (
	qmpFD    = 3
	serialFD = 4
	linkFD   = 5
	eventsFD = 6
	firstTap = 7
)

// options are what the host and QEMU's version decide.
type options struct {
	board
	kvm bool
	// tscKHz is the guest's TSC rate; only on x86 and without KVM.
	tscKHz int
	// optionROMs says that this QEMU knows the machine's x-option-roms: 9 and
	// older. Without them it starts the kernel sooner.
	optionROMs bool
}

// arguments is QEMU's command line without its name.
func arguments(m hypervisor.Machine, o options) []string {
	args := []string{"-name", "guest=" + escape(m.Name) + ",process=bield-" + escape(m.Name)}
	args = append(args, hardware(m, o)...)
	args = append(args, "-kernel", m.Kernel, "-initrd", m.Initrd, "-append", commandLine(m, o))
	args = append(args, channels()...)
	for i, tap := range m.Taps {
		args = append(args,
			"-netdev", fmt.Sprintf("tap,id=net%d,fd=%d", i, firstTap+i),
			"-device", fmt.Sprintf("virtio-net-device,netdev=net%d,mac=%s", i, tap.MAC))
	}
	for i, share := range m.Shares {
		args = append(args,
			"-chardev", fmt.Sprintf("socket,id=fs%d,path=%s", i, escape(share.Socket)),
			"-device", fmt.Sprintf("vhost-user-fs-device,chardev=fs%d,tag=%s,queue-size=1024", i, escape(share.Tag)))
	}
	if m.RootDisk != "" {
		args = append(args, "-drive", "if=none,id=root,format=raw,readonly=on,file="+escape(m.RootDisk),
			"-device", "virtio-blk-device,drive=root")
	}
	return args
}

func hardware(m hypervisor.Machine, o options) []string {
	machine, accel, cpu := o.machine+",memory-backend=mem", "tcg,thread=multi", o.emulated
	if o.x86 && o.optionROMs {
		machine += ",x-option-roms=off"
	}
	if o.kvm {
		accel, cpu = "kvm", "host"
	}
	memory := fmt.Sprintf("%dM", m.MemoryMiB)
	return []string{
		"-M", machine, "-accel", accel, "-cpu", cpu, "-smp", fmt.Sprint(m.VCPU), "-m", memory,
		"-object", "memory-backend-memfd,id=mem,size=" + memory + ",share=on",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-S",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-global", "virtio-mmio.force-legacy=false",
		"-device", "virtio-rng-device",
		"-device", "virtio-balloon-device,free-page-reporting=on,deflate-on-oom=on",
	}
}

// channels are QMP, a second one for its events alone, the serial line and the guest link.
func channels() []string {
	socket := func(id string, fd int) string {
		return fmt.Sprintf("socket,id=%s,fd=%d,server=on,wait=off", id, fd)
	}
	return []string{
		"-chardev", socket("qmp", qmpFD), "-mon", "chardev=qmp,mode=control",
		"-chardev", socket("events", eventsFD), "-mon", "chardev=events,mode=control",
		"-chardev", socket("serial", serialFD), "-serial", "chardev:serial",
		"-device", "virtio-serial-device,id=ports",
		"-chardev", socket("link", linkFD),
		"-device", "virtserialport,bus=ports.0,nr=1,chardev=link,name=" + guestconfig.LinkPort,
	}
}

// commandLine is the kernel's. panic=-1 and, on x86, reboot=t end QEMU at once,
// since it runs with -no-reboot.
func commandLine(m hypervisor.Machine, o options) string {
	words := []string{"console=" + o.console}
	if o.x86 {
		words = append(words, "reboot=t")
	}
	words = append(words, "panic=-1")
	if !m.Verbose {
		words = append(words, "quiet")
	}
	if o.x86 && !o.kvm {
		words = append(words, fmt.Sprintf("tsc_early_khz=%d", o.tscKHz), "tsc=reliable", "no_timer_check")
	}
	if !o.kvm {
		words = append(words, "cryptomgr.notests", "init_on_alloc=0")
	}
	return strings.Join(append(words, m.Cmdline...), " ")
}

// escape doubles the commas of a value in an option list.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }
