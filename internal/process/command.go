package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Command describes a program to start. Path, and UID or IDMap, must be set.
type Command struct {
	// Path is the program, absolute.
	Path string
	// Args follow the program's name.
	Args []string
	// Env is the whole environment; nothing is inherited.
	Env []string
	// Dir is the working directory; empty means "/". DirFile, when set, is it
	// instead: a directory that was checked and can't be swapped since.
	Dir     string
	DirFile *os.File
	// UID, GID and Groups are what the program runs as. Ignored with IDMap.
	UID, GID uint32
	Groups   []uint32
	// Files become descriptors 3, 4, … of the program.
	Files []*os.File
	// LogPath is the file that standard output and error are appended to,
	// made with mode 0600; Output is an open file instead. With neither they
	// go to /dev/null.
	LogPath string
	Output  *os.File
	// NewNetNS gives the program an empty network namespace.
	NewNetNS bool
	// IDMap runs the program as root of a user namespace of its own.
	IDMap *IDMap
	// MaxFiles is the wished RLIMIT_NOFILE; 0 leaves it alone. Where the
	// daemon may not raise the hard limit the program gets that: see
	// Process.MaxFiles.
	MaxFiles uint64
	// Note, when set, is told the ID before the program is executed, for a
	// record: when it fails, or the daemon dies before it returns, the program
	// never runs.
	Note func(ID) error
	// FileHandles lets the program use open_by_handle_at(2) without a
	// capability of its own; see the package comment.
	FileHandles bool
	// Landlock, when set, confines the program further, as far as the kernel can.
	Landlock *Landlock
	// Limits bound what it may use; see there.
	Limits Limits
	// Cgroups are folders of control groups, one a hierarchy, that the program
	// is in from its start, as is all that it starts.
	Cgroups []string
}

// Limits are resource limits of the program, hard and soft, setrlimit(2). 0 leaves
// one as it is.
type Limits struct {
	// Processes is RLIMIT_NPROC: threads and processes of the program's user, so
	// it is for users that run nothing else.
	Processes uint64 `json:",omitempty"`
	// FileSize is RLIMIT_FSIZE in bytes: how long the program may make a file. The
	// kernel holds memfds to it as well.
	FileSize uint64 `json:",omitempty"`
	// Files is RLIMIT_NOFILE. It only lowers: MaxFiles raises.
	Files uint64 `json:",omitempty"`
}

// IDMap maps uids and gids 0 to Count-1 of a user namespace to Base and up on
// the host.
type IDMap struct {
	Base  uint32 `json:"base"`
	Count uint32 `json:"count"`
}

func (c Command) check() error {
	switch {
	case !filepath.IsAbs(c.Path):
		return fmt.Errorf("%q is not an absolute path", c.Path)
	case c.IDMap == nil && c.UID == 0:
		return errors.New("a helper program never runs as host uid 0")
	case c.IDMap != nil && (c.IDMap.Base == 0 || c.IDMap.Count == 0):
		return errors.New("a user namespace must map at least one uid, and never host uid 0")
	case c.FileHandles && auditArch() == 0:
		return errors.New("file handles are not supported on this architecture")
	}
	for i, f := range c.Files {
		if f == nil {
			return fmt.Errorf("file %d to inherit is nil", i)
		}
	}
	return nil
}

// hostUID is the uid the program has outside any namespace of its own.
func (c Command) hostIDs() (uid, gid uint32) {
	if c.IDMap != nil {
		return c.IDMap.Base, c.IDMap.Base
	}
	return c.UID, c.GID
}
