package apt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// ErrNoSources means that the host's apt configuration holds no entry of its
// own distribution.
var ErrNoSources = errors.New("no package source of the distribution itself")

// Release is what /etc/os-release says of the host.
type Release struct {
	// ID is "debian", "ubuntu", "fedora" …
	ID string
	// Like is the ID_LIKE list.
	Like []string
	// Codename is VERSION_CODENAME, "bookworm".
	Codename  string
	VersionID string
	// Name is PRETTY_NAME.
	Name string
}

// Archive says whether the host's own distribution has a Debian archive that
// guests can be made from.
func (r Release) Archive() bool {
	return (r.ID == "debian" || r.ID == "ubuntu") && r.Codename != ""
}

// HostRelease reads etc/os-release, or usr/lib/os-release, below root ("/" for
// the host).
func HostRelease(root string) (Release, error) {
	data, err := os.ReadFile(filepath.Join(root, "etc/os-release"))
	if errors.Is(err, fs.ErrNotExist) {
		data, err = os.ReadFile(filepath.Join(root, "usr/lib/os-release"))
	}
	if err != nil {
		return Release{}, fmt.Errorf("read the name of the distribution: %w", err)
	}
	return ParseRelease(data), nil
}

// ParseRelease reads the format of os-release(5); unknown lines are passed over.
func ParseRelease(data []byte) Release {
	values := map[string]string{}
	for _, line := range lines(data) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			values[key] = strings.Trim(value, `"'`)
		}
	}
	return Release{
		ID:        values["ID"],
		Like:      strings.Fields(values["ID_LIKE"]),
		Codename:  values["VERSION_CODENAME"],
		VersionID: values["VERSION_ID"],
		Name:      values["PRETTY_NAME"],
	}
}

// HostSources are the distribution's own entries of the apt configuration
// below root: the suites CODENAME, CODENAME-updates and CODENAME-security,
// signed by the distribution. URIs may hold credentials: see Source.Public.
func HostSources(root string, release Release) ([]Source, error) {
	entries, err := hostEntries(root)
	if err != nil {
		return nil, err
	}
	h := host{root: root, release: release}
	var sources []Source
	for _, e := range entries {
		if !e.binary() {
			continue
		}
		for _, s := range h.expand(e) {
			if h.own(s) && !slices.ContainsFunc(sources, s.same) {
				sources = append(sources, s)
			}
		}
	}
	if len(sources) == 0 {
		return nil, fmt.Errorf("%w (%s, in %s)", ErrNoSources, release.Codename, filepath.Join(root, "etc/apt"))
	}
	return sources, nil
}

func (s Source) same(other Source) bool {
	return s.URI == other.URI && s.Suite == other.Suite && slices.Equal(s.Components, other.Components)
}

// fileName is what apt accepts in its .d folders.
var fileName = regexp.MustCompile(`^[A-Za-z0-9_.-]+\.(list|sources)$`)

func hostEntries(root string) ([]Entry, error) {
	dir := filepath.Join(root, "etc/apt")
	files := []string{filepath.Join(dir, "sources.list")}
	parts, err := os.ReadDir(filepath.Join(dir, "sources.list.d"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the host's package sources: %w", err)
	}
	for _, p := range parts {
		if fileName.MatchString(p.Name()) {
			files = append(files, filepath.Join(dir, "sources.list.d", p.Name()))
		}
	}
	var entries []Entry
	for _, file := range files {
		found, err := entriesOfFile(file)
		if err != nil {
			return nil, err
		}
		entries = append(entries, found...)
	}
	return entries, nil
}

func entriesOfFile(file string) ([]Entry, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the host's package sources: %w", err)
	}
	parse := ParseList
	if strings.HasSuffix(file, ".sources") {
		parse = ParseDeb822
	}
	entries, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("read the host's package sources: %s: %w", file, err)
	}
	return entries, nil
}
