package apt

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// Setting is one option of apt's configuration.
type Setting struct{ Key, Value string }

// String is the setting as a line of apt.conf(5).
func (s Setting) String() string { return s.Key + ` "` + s.Value + `";` }

// transportKeys are the options that decide how an archive is reached, and
// nothing else: proxies, certificates, retries, and what a mirror with old
// dates needs.
const transportKeys = "acquire::http acquire::https acquire::retries acquire::check-valid-until " +
	"acquire::check-date acquire::max-futuretime acquire::forceipv4 acquire::forceipv6"

// Transport is how the host's own apt is set up to reach its archives. It is
// for the download only: proxies may hold credentials. A host without apt has
// no such settings.
func Transport(ctx context.Context) ([]Setting, error) {
	out, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read apt's configuration: %w", err)
	}
	return parseTransport(string(out)), nil
}

// parseTransport picks from the output of `apt-config dump`, lines of the
// form KEY "VALUE";
func parseTransport(dump string) []Setting {
	var settings []Setting
	for line := range strings.Lines(dump) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || !isTransport(key) {
			continue
		}
		value, ok = strings.CutSuffix(value, `";`)
		value, ok2 := strings.CutPrefix(value, `"`)
		// apt.conf has no way to write a quote inside a value.
		if !ok || !ok2 || value == "" || strings.ContainsAny(value, "\"\n") {
			continue
		}
		settings = append(settings, Setting{Key: key, Value: value})
	}
	return settings
}

func isTransport(key string) bool {
	key = strings.ToLower(key)
	for _, want := range strings.Fields(transportKeys) {
		if key == want || strings.HasPrefix(key, want+"::") {
			return true
		}
	}
	return false
}
