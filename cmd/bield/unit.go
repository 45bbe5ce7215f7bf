package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"bield/internal/api/client"
	"bield/internal/state"
)

// daemonUnit is the unit of the host's own bieldd.
const daemonUnit = "bieldd.service"

// hasUnit says whether systemd is to start bieldd: it is PID 1, the unit is
// installed, and it is the daemon that is wanted, not another one beside it. A
// systemd that stops the machine starts nothing any more; then bield does, so
// that VMs can still be stopped.
func (a *app) hasUnit(ctx context.Context) bool {
	own := a.run.Dir == state.DefaultRunDir && state.CacheFromEnv().Dir == state.DefaultCacheDir
	return own && booted("/run/systemd/system") && unitLoaded(ctx)
}

// booted is sd_booted(3).
func booted(marker string) bool {
	info, err := os.Lstat(marker)
	return err == nil && info.IsDir()
}

// unitLoaded is also true of a unit that is masked or broken: starting it tells
// the reason.
func unitLoaded(ctx context.Context) bool {
	load, err := exec.CommandContext(ctx, "systemctl", "show", "--property=LoadState", "--value", daemonUnit).Output()
	if err != nil || strings.TrimSpace(string(load)) == "not-found" {
		return false
	}
	// It exits with 1 for every state but "running".
	running, _ := exec.CommandContext(ctx, "systemctl", "is-system-running").Output()
	return strings.TrimSpace(string(running)) != "stopping"
}

func startUnit(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: `sudo systemctl start bieldd` starts it, `sudo systemctl enable bieldd` does so at every boot", client.ErrNoDaemon)
	}
	out, err := exec.CommandContext(ctx, "systemctl", "--no-ask-password", "start", daemonUnit).CombinedOutput()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("systemctl start %s: %w: %s (`journalctl -u bieldd` has the reason)", daemonUnit, err, first)
	}
	return nil
}

// endDaemon is the command that ends a daemon of another version.
func endDaemon(ctx context.Context, pid int) string {
	main, err := exec.CommandContext(ctx, "systemctl", "show", "--property=MainPID", "--value", daemonUnit).Output()
	if err == nil && strings.TrimSpace(string(main)) == strconv.Itoa(pid) {
		return "sudo systemctl restart bieldd"
	}
	return fmt.Sprintf("kill %d", pid)
}
