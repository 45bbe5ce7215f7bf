package hypervisor

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"time"
)

// versionTimeout is how long a program may take to print its version.
const versionTimeout = 20 * time.Second

// Versions knows the versions of programs: each file is asked once, until it
// changes. The zero value is ready for use.
type Versions struct {
	mu    sync.Mutex
	known map[programFile]string
}

// programFile tells an upgraded program from the one before.
type programFile struct {
	path     string
	modified time.Time
	size     int64
}

// Of is the version of the program at path, as in "7.2.22".
func (v *Versions) Of(ctx context.Context, path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	key := programFile{path, info.ModTime(), info.Size()}
	v.mu.Lock()
	defer v.mu.Unlock()
	if version, ok := v.known[key]; ok {
		return version, nil
	}
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	text, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", path, err)
	}
	version, err := parseVersion(string(text))
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", path, err)
	}
	if v.known == nil {
		v.known = map[programFile]string{}
	}
	v.known[key] = version
	return version, nil
}

var versionNumber = regexp.MustCompile(`\bv?(\d{1,4}(?:\.\d{1,6}){1,3})`)

// parseVersion reads "QEMU emulator version 7.2.22 (Debian …)" and
// "cloud-hypervisor v52.0".
func parseVersion(text string) (string, error) {
	match := versionNumber.FindStringSubmatch(text)
	if match == nil {
		return "", fmt.Errorf("no version in %.80q", text)
	}
	return match[1], nil
}
