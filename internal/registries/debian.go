package registries

import (
	"context"
	"errors"
	"path/filepath"

	"bield/internal/apt"
)

// debian opens the hosts of the distribution's own sources, of which guests get
// a copy. Third parties' are none of theirs.
func debian(_ context.Context, s *search) error {
	s.files = append(s.files, "/etc/apt/sources.list", "/etc/apt/sources.list.d")
	release, err := apt.HostRelease(s.Root)
	if err != nil {
		return err
	}
	sources, err := apt.HostSources(s.Root, release)
	if errors.Is(err, apt.ErrNoSources) {
		return errors.New("the configuration of apt in " + filepath.Join(s.Root, "etc/apt") + " has no source of the distribution's own")
	}
	if err != nil {
		return err
	}
	for _, source := range sources {
		if err := s.add("a source of apt", source.URI, true); err != nil {
			return err
		}
	}
	return nil
}
