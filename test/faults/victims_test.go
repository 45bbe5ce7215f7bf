package faults

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"bield/internal/process"
	"bield/internal/reconcile"
	"bield/internal/state"
	"bield/test/host"
)

// killProcess kills a VM's VMM, or the virtiofsd of the share of that tag, and
// waits for its end.
func killProcess(h *host.Host, vm, what string) error {
	return ending(h, vm, what, func(fd int) error { return unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) })
}

var errStays = errors.New("does not end")

// ending does what ends the process that a VM's record names, and waits for that.
func ending(h *host.Host, vm, what string, kill func(pidfd int) error) error {
	id, err := recordedProcess(h, vm, what)
	if err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(id.PID, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := kill(fd); err != nil {
		return err
	}
	if !host.Ends(fd, host.Patience) {
		return fmt.Errorf("process %d %w", id.PID, errStays)
	}
	return nil
}

func recordedProcess(h *host.Host, vm, what string) (process.ID, error) {
	var r reconcile.Record
	if err := state.Read(h.Run.Record(vm), &r); err != nil {
		return process.ID{}, err
	}
	id := r.VMM
	for _, s := range r.Shares {
		if s.Tag == what {
			id = s.Process
		}
	}
	if id == nil || what != "vmm" && id == r.VMM {
		return process.ID{}, fmt.Errorf("%s has no process %s", vm, what)
	}
	return *id, nil
}
