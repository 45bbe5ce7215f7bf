package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"bield/internal/apt"
	"bield/internal/state"
)

// The Debian release that virtiofsd is taken from, and the packages: what it
// is linked to, its loader among them.
const (
	bundleSuite    = "trixie"
	bundlePackages = "virtiofsd libc6 libseccomp2 libcap-ng0 libgcc-s1"
)

// installVirtiofsd unpacks Debian 13's virtiofsd below the cache. Another
// process doing the same is waited for.
func (h Host) installVirtiofsd(ctx context.Context, release apt.Release, progress func(string)) error {
	if err := os.MkdirAll(h.tools(), 0o755); err != nil {
		return fmt.Errorf("make tools folder: %w", err)
	}
	lock, err := state.WaitLock(ctx, filepath.Join(h.tools(), "lock"), func() {
		progress("wait for another `bield setup`")
	})
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := h.Virtiofsd(ctx); !errors.Is(err, ErrNoVirtiofsd) {
		return err
	}
	sources, err := h.bundleSources(release)
	if err != nil {
		return err
	}
	progress("download virtiofsd of Debian 13")
	if err := h.unpack(ctx, sources); err != nil {
		return fmt.Errorf("unpack virtiofsd of Debian 13: %w", err)
	}
	_, err = h.Virtiofsd(ctx)
	return err
}

// bundleSources are the host's own Debian mirrors with the other suite, each
// checked by Debian's keyring.
func (h Host) bundleSources(release apt.Release) ([]apt.Source, error) {
	own, err := apt.HostSources(h.root(), release)
	if err != nil {
		return nil, err
	}
	keyring, ok := apt.DefaultKeyring(h.root(), "debian")
	if !ok {
		return nil, errors.New("the host has no Debian keyring: run `apt-get install debian-archive-keyring`")
	}
	var sources []apt.Source
	for _, s := range own {
		base, _, _ := strings.Cut(s.Suite, "-")
		s.Suite = bundleSuite + strings.TrimPrefix(s.Suite, base)
		s.Components = []string{"main"}
		s.Keyring = keyring
		sources = append(sources, s)
	}
	return sources, nil
}

// unpack downloads and unpacks into a temporary folder and renames it when the
// program in it runs.
func (h Host) unpack(ctx context.Context, sources []apt.Source) error {
	left, err := filepath.Glob(filepath.Join(h.tools(), ".tmp-*"))
	if err != nil {
		return err
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	tmp, err := os.MkdirTemp(h.tools(), ".tmp-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }() // what stays goes with the next
	// apt's unprivileged user must pass through.
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	debs, err := apt.Fetch(ctx, sources, strings.Fields(bundlePackages), tmp)
	if err != nil {
		return err
	}
	dir := filepath.Join(tmp, "root")
	if err := extract(ctx, debs, dir, h.arch()); err != nil {
		return err
	}
	if _, err := virtiofsdVersion(ctx, bundleCommand(dir, h.arch())); err != nil {
		return err
	}
	return os.Rename(dir, filepath.Join(h.tools(), "virtiofsd-"+debVersion(debs[0])))
}

// debVersion is the version in a file name of the form NAME_VERSION_ARCH.deb.
func debVersion(path string) string {
	parts := strings.Split(filepath.Base(path), "_")
	if len(parts) != 3 {
		return "unknown"
	}
	return strings.ReplaceAll(parts[1], "%3a", "-")
}

// extract unpacks without running any script of the packages.
func extract(ctx context.Context, debs []string, dir, arch string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, deb := range debs {
		cmd := exec.CommandContext(ctx, "dpkg-deb", "--extract", deb, dir)
		cmd.WaitDelay = 10 * time.Second
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("dpkg-deb --extract %s: %w: %s", filepath.Base(deb), err, strings.TrimSpace(string(out)))
		}
	}
	// Documents and character sets are of no use here.
	for _, unused := range []string{"usr/share", filepath.Join(bundleLibraries(arch), "gconv")} {
		if err := os.RemoveAll(filepath.Join(dir, unused)); err != nil {
			return err
		}
	}
	return readOnly(dir)
}

// readOnly lets everybody read below dir and nobody but the owner write, and
// takes away what would run as another user.
func readOnly(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm()&^0o022 | 0o444
		if mode&0o100 != 0 || d.IsDir() {
			mode |= 0o111
		}
		return os.Chmod(path, mode)
	})
}
