package preflight

import (
	"os"
)

// unit is the host daemon's.
const unit = "bieldd.service"

// systemd looks at files alone: a manager that hangs would not answer. Where
// the unit is missing bield starts the daemon itself, so it is never a fault.
func (h Host) systemd() Result {
	// sd_booted(3) looks for this folder.
	if _, err := os.Stat(h.path("run/systemd/system")); err != nil {
		return skipped("systemd does not run this machine; `bield` starts bieldd itself")
	}
	if !h.anyOf("etc/systemd/system/", "run/systemd/system/", "usr/local/lib/systemd/system/", "usr/lib/systemd/system/", "lib/systemd/system/") {
		return ok("%s is not installed: `bield` starts bieldd itself, and after a reboot nothing starts by itself", unit)
	}
	if h.anyOf("etc/systemd/system/multi-user.target.wants/", "run/systemd/system/multi-user.target.wants/", "usr/lib/systemd/system/multi-user.target.wants/") {
		return ok("%s is installed and enabled", unit)
	}
	return warn(unit+" is installed and not enabled: after a reboot nothing starts by itself", "sudo systemctl enable --now "+unit)
}

func (h Host) anyOf(folders ...string) bool {
	for _, dir := range folders {
		if _, err := os.Lstat(h.path(dir + unit)); err == nil {
			return true
		}
	}
	return false
}
