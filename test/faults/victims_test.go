package faults

import (
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
	var r reconcile.Record
	if err := state.Read(h.Run.Record(vm), &r); err != nil {
		return err
	}
	id := r.VMM
	for _, s := range r.Shares {
		if s.Tag == what {
			id = s.Process
		}
	}
	if id == nil || what != "vmm" && id == r.VMM {
		return fmt.Errorf("%s has no process %s", vm, what)
	}
	return end(*id)
}

func end(id process.ID) error {
	fd, err := unix.PidfdOpen(id.PID, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return err
	}
	if !host.Ends(fd, host.Patience) {
		return fmt.Errorf("process %d does not end", id.PID)
	}
	return nil
}
