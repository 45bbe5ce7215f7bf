package setup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrNoVirtiofsd means that the host has no virtiofsd that bield can use.
var ErrNoVirtiofsd = errors.New("no virtiofsd 1.13 or newer: run `bield setup`")

// minVersion is the first virtiofsd that bield uses, as major and minor.
const minMajor, minMinor = 1, 13

// Virtiofsd is how a usable virtiofsd is started: a program, or a loader with
// its arguments and the program. Its own arguments go behind. cacheDir is
// bield's cache. The error is ErrNoVirtiofsd, with what was found instead.
func Virtiofsd(ctx context.Context, cacheDir string) ([]string, error) {
	return Host{CacheDir: cacheDir}.Virtiofsd(ctx)
}

// Virtiofsd is the function of that name for this host. When ctx ends before
// the answer is known, the error is ctx's.
func (h Host) Virtiofsd(ctx context.Context) ([]string, error) {
	var found []string
	for _, argv := range append(h.systemVirtiofsds(), h.bundles()...) {
		version, err := virtiofsdVersion(ctx, argv)
		if err == nil {
			return argv, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		found = append(found, fmt.Sprintf("%s is %s", argv[len(argv)-1], version))
	}
	if len(found) == 0 {
		return nil, ErrNoVirtiofsd
	}
	return nil, fmt.Errorf("%w (%s)", ErrNoVirtiofsd, strings.Join(found, ", "))
}

// systemVirtiofsds are the places of Debian, Ubuntu, Fedora and Arch, where the
// file exists, then the path.
func (h Host) systemVirtiofsds() [][]string {
	places := []string{"usr/libexec/virtiofsd", "usr/lib/qemu/virtiofsd", "usr/lib/virtiofsd"}
	var out [][]string
	for _, p := range places {
		if path := filepath.Join(h.root(), p); executable(path) {
			out = append(out, []string{path})
		}
	}
	for _, dir := range h.path() {
		if path := filepath.Join(dir, "virtiofsd"); filepath.IsAbs(path) && executable(path) {
			out = append(out, []string{path})
		}
	}
	return out
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

func (h Host) tools() string { return filepath.Join(h.CacheDir, "tools") }

// bundles are the unpacked virtiofsds, the newest first.
func (h Host) bundles() [][]string {
	// The pattern has no syntax that could be wrong.
	dirs, _ := filepath.Glob(filepath.Join(h.tools(), "virtiofsd-*"))
	slices.SortFunc(dirs, func(a, b string) int { return compareVersions(filepath.Base(b), filepath.Base(a)) })
	var out [][]string
	for _, dir := range dirs {
		out = append(out, bundleCommand(dir, h.arch()))
	}
	return out
}

// bundleCommand starts the virtiofsd unpacked in dir by the loader and with
// the libraries that were unpacked with it.
func bundleCommand(dir, arch string) []string {
	libraries, loader := filepath.Join(dir, bundleLibraries(arch)), "ld-linux-x86-64.so.2"
	if arch == "arm64" {
		loader = "ld-linux-aarch64.so.1"
	}
	return []string{
		filepath.Join(libraries, loader), "--inhibit-cache",
		"--library-path", libraries, filepath.Join(dir, "usr/libexec/virtiofsd"),
	}
}

// bundleLibraries is Debian's folder of libraries for an architecture.
func bundleLibraries(arch string) string {
	if arch == "arm64" {
		return "usr/lib/aarch64-linux-gnu"
	}
	return "usr/lib/x86_64-linux-gnu"
}

var digits = regexp.MustCompile(`\d+`)

// compareVersions orders by the numbers in two names, so that 1.13.2 stands
// behind 1.9.
func compareVersions(a, b string) int {
	numbers := func(s string) []int {
		var out []int
		for _, d := range digits.FindAllString(s, -1) {
			n, _ := strconv.Atoi(d)
			out = append(out, n)
		}
		return out
	}
	return slices.Compare(numbers(a), numbers(b))
}

// virtiofsdVersion asks the program. The one in C that QEMU had before 8.0
// answers "virtiofsd version 7.2.0": it can't map uids.
func virtiofsdVersion(ctx context.Context, argv []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, argv[0], append(slices.Clone(argv[1:]), "--version")...).CombinedOutput()
	if err != nil {
		return "not to be run", fmt.Errorf("ask %s for its version: %w", argv[0], err)
	}
	version, err := parseVersion(string(out))
	if err != nil {
		return version, fmt.Errorf("%s: %w", argv[len(argv)-1], err)
	}
	return version, nil
}

var rustVersion = regexp.MustCompile(`(?m)^virtiofsd (?:backend )?v?((\d+)\.(\d+)\S*)`)

// parseVersion returns the version, or a word for what it is instead.
func parseVersion(out string) (string, error) {
	found := rustVersion.FindStringSubmatch(out)
	if found == nil {
		return "the one written in C", ErrNoVirtiofsd
	}
	major, _ := strconv.Atoi(found[2])
	minor, _ := strconv.Atoi(found[3])
	if major < minMajor || major == minMajor && minor < minMinor {
		return found[1], ErrNoVirtiofsd
	}
	return found[1], nil
}
