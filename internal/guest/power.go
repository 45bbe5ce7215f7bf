package guest

import (
	"context"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The bounds of a power-off; together they stay below the ten seconds that
// the host waits by default.
const (
	termGrace  = 4 * time.Second
	killGrace  = time.Second
	syncBound  = 2 * time.Second
	flushBound = 500 * time.Millisecond
	// failureFlush is longer: the reason of a failed boot is worth a wait for
	// a host that is just dialling.
	failureFlush = 5 * time.Second
)

// catchSignals turns ctrl-alt-del and a SIGTERM to PID 1 into requests.
func catchSignals(ctx context.Context, powerOff func(why string)) {
	// Else the kernel would reboot at once.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, unix.SIGTERM, unix.SIGINT)
	defer signal.Stop(asked)
	for {
		select {
		case s := <-asked:
			powerOff("signal " + s.String())
		case <-ctx.Done():
			return
		}
	}
}

// endProcesses asks every process to end and then makes it. SIGHUP is for
// interactive shells, which ignore SIGTERM.
func endProcesses(ctx context.Context, r *reaper) {
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGCONT} {
		_ = unix.Kill(-1, s)
	}
	if awaitChildless(ctx, r, termGrace) {
		return
	}
	_ = unix.Kill(-1, unix.SIGKILL)
	awaitChildless(ctx, r, killGrace)
}

func awaitChildless(ctx context.Context, r *reaper, bound time.Duration) bool {
	t := time.NewTimer(bound)
	defer t.Stop()
	select {
	case <-r.childless():
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// releaseFiles writes everything out and unmounts the shares. A share whose
// server on the host is dead hangs for good, so it gets no more than its time.
func releaseFiles(mountPoints []string) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		unix.Sync()
		for i := len(mountPoints) - 1; i >= 0; i-- {
			_ = unix.Unmount(mountPoints[i], unix.MNT_DETACH)
		}
	}()
	select {
	case <-done:
	case <-time.After(syncBound):
	}
}

// switchOff does not return on a machine.
func switchOff() {
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// firstLine is for places that take one line only.
func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// powerScript stands for poweroff and its kin where bield-init stays PID 1: the
// image's own ask a systemd that does not run. There is no warm start of a VM,
// so reboot ends it too.
const powerScript = `#!/bin/sh
# Written by bield: asks PID 1 to end the processes, sync and power off.
exec kill -s TERM 1
`

// writePowerCommands puts them where root's path and sudo's look first.
func (t tree) writePowerCommands() error {
	for _, name := range []string{"poweroff", "halt", "shutdown", "reboot"} {
		if err := t.write("/usr/local/sbin/"+name, powerScript, 0o755, owner{}); err != nil {
			return err
		}
	}
	return nil
}
