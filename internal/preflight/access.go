package preflight

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Daemon is what the CLI learnt of bieldd.
type Daemon struct {
	// Runs says that one answered; Version and PID are its own.
	Runs    bool
	Version string
	PID     int
	// OtherAPI says that it can't be spoken to by this bield.
	OtherAPI bool
	// Wanted is the version of this bield.
	Wanted string
	// Closed says that the caller may not speak to it.
	Closed bool
	// End is the command that ends it, so that the next `bield` starts this one.
	End string
	// Err is why one that is there did not answer.
	Err error
}

func (h Host) daemon(ctx context.Context) Result {
	d := h.Daemon(ctx)
	restart := d.End + "; VMs go on, and the next `bield` starts the new one"
	switch {
	case d.Runs && d.OtherAPI:
		return fail(fmt.Sprintf("bieldd %s (pid %d) answers, and this bield, %s, can't speak to it", d.Version, d.PID, d.Wanted), restart)
	case d.Runs && d.Version != d.Wanted:
		return warn(fmt.Sprintf("bieldd %s (pid %d) answers, and this is bield %s", d.Version, d.PID, d.Wanted), restart)
	case d.Runs:
		return ok("bieldd %s (pid %d) answers on %s", d.Version, d.PID, h.Run.Socket())
	case d.Closed:
		return skipped("who may not open "+h.Run.Socket()+" can't ask it", "sudo bield doctor")
	case d.Err != nil:
		return fail(fmt.Sprintf("bieldd does not answer on %s: %v", h.Run.Socket(), d.Err), "look at "+h.Run.Log()+", and end it if it hangs")
	}
	return ok("none runs; `sudo bield up` starts one")
}

// access says what who asks may do.
func (h Host) access() Result {
	gid, members, found := h.group()
	join := fmt.Sprintf("sudo usermod -aG %s $USER, then log in again", h.Group)
	switch {
	case h.root() && found:
		return ok("root; members of the group %s use bield without sudo", h.Group)
	case h.root():
		return ok("root; there is no group %s, so only root can use bield (`bield setup` makes it)", h.Group)
	case !found:
		return warn(fmt.Sprintf("there is no group %s: only root can use bield", h.Group), "sudo bield setup", join)
	case slices.Contains(h.Groups, gid):
		return ok("a member of the group %s", h.Group)
	case slices.Contains(members, h.userName()):
		return warn(fmt.Sprintf("a member of the group %s, but not in this session", h.Group), "log in again, or: newgrp "+h.Group)
	}
	return warn(fmt.Sprintf("not a member of the group %s: only sudo bield works", h.Group), join)
}

// group reads group(5).
func (h Host) group() (gid int, members []string, found bool) {
	text, err := os.ReadFile(h.path("etc/group"))
	if err != nil {
		return 0, nil, false
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 4 || f[0] != h.Group {
			continue
		}
		gid, err := strconv.Atoi(f[2])
		return gid, strings.Split(f[3], ","), err == nil
	}
	return 0, nil, false
}

// userName reads passwd(5); "" for who is not in it.
func (h Host) userName() string {
	text, err := os.ReadFile(h.path("etc/passwd"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Split(line, ":"); len(f) > 2 && f[2] == strconv.Itoa(h.UID) {
			return f[0]
		}
	}
	return ""
}
