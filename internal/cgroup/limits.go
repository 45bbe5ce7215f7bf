package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Limits are what a VM may use.
type Limits struct {
	// Memory is in MiB: what the guest has, and what serves it beside that. Files'
	// pages that its virtiofsds read and write count, and are given back when the
	// limit is near; what the VM's processes hold does not come back, so that the
	// kernel ends them at the limit.
	MemoryMiB int
	// SwapMiB is how much of that may be on the host's swap.
	SwapMiB int
	// Processes counts threads, too.
	Processes int
	// CPUs is how many processors it may keep busy.
	CPUs int
}

// VM is what limits follow from.
type VM struct {
	MemoryMiB, VCPU, Shares int
	// Emulated says that there is no KVM.
	Emulated bool
}

// What a VM needs beside its guest's memory, in MiB. Measured with QEMU 7.2: 60 of
// its own with KVM, and without it a cache of translated code that grows up to
// 1024 (its default on hosts of 8 GiB and more).
const (
	vmmMiB        = 256
	translatedMiB = 1024
	shareMiB      = 64
)

// LimitsOf are the limits of a VM.
//
// virtiofsd holds each file that its guest remembers open, which costs the host
// about 2 KiB a file, and the guest one: hence half of the guest's memory on top
// of it.
func LimitsOf(vm VM) Limits {
	l := Limits{
		MemoryMiB: vm.MemoryMiB + vm.MemoryMiB/2 + vmmMiB + shareMiB*vm.Shares,
		SwapMiB:   vm.MemoryMiB,
		// QEMU has up to 64 threads that wait for disks, cloud-hypervisor one a
		// queue; a virtiofsd is two processes, and its launcher at times two more of
		// ten threads.
		Processes: 128 + 4*vm.VCPU + 32*vm.Shares,
		CPUs:      vm.VCPU + 1,
	}
	if vm.Emulated {
		l.MemoryMiB += translatedMiB
	}
	return l
}

const (
	// What a group weighs that is not told, as cpu.weight (to 10000) and cpu.shares:
	// as much as one process.
	weightV2, maxWeight = 100, 10_000
	sharesV1            = 1024
	// period of cpu.max in microseconds, the kernel's default.
	period = 100_000
)

// setting is a file of a group and what is written to it. An optional one is
// missing in some kernels.
type setting struct {
	file, value string
	optional    bool
}

func (l Limits) settings(c Controller, version int) []setting {
	mib := func(n int) string { return strconv.FormatInt(int64(n)<<20, 10) }
	quota := l.CPUs * period
	switch {
	case c == Pids:
		return []setting{{file: "pids.max", value: strconv.Itoa(l.Processes)}}
	case c == Memory && version == 2:
		return []setting{
			{file: "memory.max", value: mib(l.MemoryMiB)},
			{file: "memory.swap.max", value: mib(l.SwapMiB), optional: true},
			// A guest without one of its processes hangs: all go at once.
			{file: "memory.oom.group", value: "1", optional: true},
		}
	case c == Memory:
		return []setting{
			{file: "memory.limit_in_bytes", value: mib(l.MemoryMiB)},
			{file: "memory.memsw.limit_in_bytes", value: mib(l.MemoryMiB + l.SwapMiB), optional: true},
		}
	case version == 2:
		return []setting{{file: "cpu.max", value: fmt.Sprintf("%d %d", quota, period), optional: true}}
	default:
		return []setting{
			{file: "cpu.cfs_period_us", value: strconv.Itoa(period), optional: true},
			{file: "cpu.cfs_quota_us", value: strconv.Itoa(quota), optional: true},
		}
	}
}

// apply writes the settings of a group.
func apply(dir string, settings []setting) error {
	for _, s := range settings {
		err := write(filepath.Join(dir, s.file), s.value)
		if s.optional && os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// write writes to a file of the kernel's, which makes none.
func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if closed := f.Close(); err == nil {
		err = closed
	}
	return err
}
