package config

import (
	"bield/internal/spec"
)

// Account is a user of the host.
type Account struct {
	Name string
	spec.ID
	Home string
}

// PathInfo is what is asked of a path on the host.
type PathInfo struct {
	spec.ID // the owner
	Dir     bool
	// Real is the path without symbolic links.
	Real string
	// Links are the symbolic links that lead to Real, each by its own real path.
	Links []string
}

// Env is what reading a file needs to know of the host. HostEnv asks the real
// one; a test fills in what it likes.
type Env struct {
	// Caller is who runs bield; Sudo is who called sudo, nil without it.
	Caller Account
	Sudo   *Account
	// MemoryMiB is the host's memory; 0 means unknown and sets no limit.
	MemoryMiB int
	// ByName and ByUID look up a user. Both report an unknown one by an error
	// that is ErrNoUser.
	ByName func(name string) (Account, error)
	ByUID  func(uid uint32) (Account, error)
	// PublicKeys lists the lines of the *.pub files in home's .ssh folder; a
	// folder that is missing has none.
	PublicKeys func(home string) ([]string, error)
	// Preset lists what a preset of egress stands for; its error says what to
	// write instead.
	Preset func(name string) ([]spec.Target, error)
	// Path follows symbolic links; its errors are those of os.Stat.
	Path func(path string) (PathInfo, error)
}

// person is who sits at the machine: who called sudo, or the caller.
func (e Env) person() Account {
	if e.Sudo != nil {
		return *e.Sudo
	}
	return e.Caller
}
