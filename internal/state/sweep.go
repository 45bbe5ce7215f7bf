package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Sweep removes what writes left that a dead daemon did not finish. Only the
// daemon that holds the lock may call it, and before it writes anything.
func (r Run) Sweep() error {
	return sweep(r.Dir, "*"+unfinished, "records/*"+unfinished)
}

// Sweep is Run.Sweep for the state folder; hostKey is the name of a VM's
// private host key. Users may have exchanged what lies in folders of theirs: no
// link is followed, and no file is touched that bield would not make.
func (f Folder) Sweep(hostKey string) error {
	own, key := filepath.Base(f.own()), filepath.Base(f.DaemonKey())
	return sweep(f.Dir,
		own+"/applied.json"+unfinished, own+"/console/*"+unfinished,
		own+"/keys/*/"+key+unfinished, own+"/keys/*/"+key+".pub"+unfinished,
		"*/ssh-host-keys/"+hostKey+unfinished, "*/ssh-host-keys/"+hostKey+".pub"+unfinished)
}

// sweep removes the files below dir that match a pattern of path.Match. A folder
// that is not there has none.
func sweep(dir string, patterns ...string) error {
	var failures []error
	for _, pattern := range patterns {
		f, err := os.Open(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			err = errors.Join(sweepIn(f, strings.Split(pattern, "/")), f.Close())
		}
		if err != nil {
			failures = append(failures, fmt.Errorf("sweep %s: %w", dir, err))
		}
	}
	return errors.Join(failures...)
}

func sweepIn(dir *os.File, pattern []string) error {
	names, err := dir.Readdirnames(-1)
	failures := []error{err}
	for _, name := range names {
		if fits, _ := path.Match(pattern[0], name); fits {
			failures = append(failures, sweepName(dir, name, pattern[1:]))
		}
	}
	return errors.Join(failures...)
}

// sweepName removes a file, or looks into a folder when there is more of the
// pattern. What is of another kind stays.
func sweepName(dir *os.File, name string, rest []string) error {
	if len(rest) == 0 {
		err := unix.Unlinkat(int(dir.Fd()), name, 0)
		if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	}
	below, err := openFolder(dir, name)
	if err != nil {
		return nil // no folder: nothing of bield's is in it
	}
	defer below.Close()
	return sweepIn(below, rest)
}
