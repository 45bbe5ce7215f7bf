package preflight

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"bield/internal/state"
)

// folders holds bield's own folders to what bieldd asks of them: that nobody
// but root can exchange what is in them, and that a VM's programs, which are
// not root, can come to what they need.
func (h Host) folders() Result {
	var faults, do []string
	var closed bool
	for _, dir := range h.ownFolders() {
		switch err := state.Examine(dir); {
		case errors.Is(err, fs.ErrPermission):
			closed = true
		case err != nil:
			fault, advice := splitAdvice(err)
			if !slices.Contains(faults, fault) {
				faults, do = append(faults, fault), append(do, advice)
			}
		}
	}
	for _, dir := range []string{h.Run.Dir, h.Cache.Dir} {
		if at := impassable(dir); at != "" {
			faults = append(faults, fmt.Sprintf("%s lets others not pass to %s, where VMs' own users find their files", at, dir))
			do = append(do, "sudo chmod o+x "+at)
		}
	}
	switch {
	case faults != nil:
		return fail(strings.Join(faults, "\n"), do...)
	case closed && !h.root():
		return needsRoot("looking at all of bield's folders")
	}
	return ok("%s, %s and %s can be trusted, as far as they are there", h.Run.Dir, h.Config.Host.StateDir, h.Cache.Dir)
}

// splitAdvice parts an error of state.Examine from what it says to do.
func splitAdvice(err error) (fault, advice string) {
	text := err.Error()
	i := strings.LastIndex(text, ": ")
	if errno := syscall.Errno(0); i < 0 || errors.As(err, &errno) {
		return text, "see what is at that path"
	}
	return text[:i], text[i+len(": "):]
}

func (h Host) ownFolders() []string {
	kept := state.Folder{Dir: h.Config.Host.StateDir}
	return []string{
		h.Run.Dir, h.Run.Records(), filepath.Join(h.Run.Dir, "vms"),
		kept.Dir, filepath.Dir(kept.Applied()), filepath.Dir(filepath.Dir(kept.DaemonKey())), filepath.Dir(kept.Console("")),
		h.Cache.Dir, h.Cache.Images(),
	}
}

// impassable is the first folder on the way that others can't pass, or "".
func impassable(dir string) string {
	target, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return ""
	}
	for at := target; at != "/"; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err == nil && info.Mode().Perm()&1 == 0 {
			return at
		}
	}
	return ""
}
