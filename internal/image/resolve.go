package image

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"bield/internal/apt"
	"bield/internal/spec"
)

// recipeVersion changes whenever the same packages would give another image.
const recipeVersion = 1

// ErrUnsupported means that bield makes no images for this machine.
var ErrUnsupported = errors.New("not supported")

// Resolve fills in what img leaves to the host: its suite, its distribution's
// own package sources and their keyring. It reads files only; whether the
// sources can be reached shows in the build.
func Resolve(img spec.Image) (Inputs, error) { return resolve("/", img, runtime.GOARCH) }

// resolve is Resolve for the host below root. For what bield runs on, Go's name
// of an architecture is Debian's.
func resolve(root string, img spec.Image, arch string) (Inputs, error) {
	if arch != "amd64" && arch != "arm64" {
		return Inputs{}, fmt.Errorf("images for %s: %w", arch, ErrUnsupported)
	}
	if err := check(img); err != nil {
		return Inputs{}, err
	}
	release, err := apt.HostRelease(root)
	if err != nil {
		return Inputs{}, err
	}
	r := resolver{root: root, img: img, release: release}
	sources, err := r.sources()
	if err != nil {
		return Inputs{}, err
	}
	inner, err := archives(root, sources)
	if err != nil {
		return Inputs{}, err
	}
	return Inputs{
		Recipe: recipeVersion, Arch: arch,
		Distribution: r.distribution(), Suite: r.suite(),
		Sources: inner, Kernel: kernelPackage(r.distribution(), arch),
		Packages: packages(img.Packages),
		UIDBase:  spec.ImageUIDBase, UIDCount: spec.ImageUIDCount,
		download: sources, root: root,
	}, nil
}

type resolver struct {
	root    string
	img     spec.Image
	release apt.Release
}

// distribution is "debian" or "ubuntu": the keyring's where one is given,
// otherwise the host's, otherwise Debian.
func (r resolver) distribution() string {
	switch {
	case r.img.Keyring != "":
		if strings.HasPrefix(filepath.Base(r.img.Keyring), "ubuntu") {
			return "ubuntu"
		}
		return "debian"
	case r.release.ID == "ubuntu":
		return "ubuntu"
	default:
		return "debian"
	}
}

func (r resolver) suite() string {
	if r.img.Suite != "" {
		return r.img.Suite
	}
	return r.release.Codename
}

func (r resolver) sources() ([]apt.Source, error) {
	if !r.release.Archive() && (r.img.Mirror == "" || r.img.Suite == "") {
		return nil, fmt.Errorf("%s has no Debian package sources of its own: set image.suite and image.mirror", r.release.Name)
	}
	keyring, err := r.keyring()
	if err != nil {
		return nil, err
	}
	if r.img.Mirror != "" {
		return []apt.Source{{URI: r.img.Mirror, Suite: r.suite(), Components: r.components(), Keyring: keyring}}, nil
	}
	sources, err := apt.HostSources(r.root, r.release)
	if err != nil {
		return nil, fmt.Errorf("%w: set image.mirror", err)
	}
	return r.adapt(sources, keyring), nil
}

func (r resolver) components() []string {
	if r.distribution() == "ubuntu" {
		return []string{"main", "universe"}
	}
	return []string{"main"}
}

// adapt gives the host's sources the suite and keyring that the image asks for.
func (r resolver) adapt(sources []apt.Source, keyring string) []apt.Source {
	var out []apt.Source
	for _, s := range sources {
		if s.Keyring == "" || r.img.Keyring != "" {
			s.Keyring = keyring
		}
		base, _, _ := strings.Cut(s.Suite, "-")
		pocket := strings.TrimPrefix(s.Suite, base)
		if r.suite() != r.release.Codename {
			s.Suite = r.suite() + pocket
		}
		// The rolling suite has no updates and no security of its own.
		rolling := r.suite() == "sid" || r.suite() == "unstable"
		if rolling && pocket != "" {
			continue
		}
		out = append(out, s)
	}
	return out
}

// keyring is the one the image names, or the distribution's on this host. The
// latter may be missing where every source names its own.
func (r resolver) keyring() (string, error) {
	if r.img.Keyring != "" {
		return filepath.Clean(r.img.Keyring), nil
	}
	path, ok := apt.DefaultKeyring(r.root, r.distribution())
	if !ok && r.img.Mirror != "" {
		return "", fmt.Errorf("this host has no %s archive keyring: install %s-archive-keyring or set image.keyring",
			r.distribution(), r.distribution())
	}
	return path, nil
}

var (
	suiteName   = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]*$`)
	packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`) // Debian policy 5.6.1
)

// check refuses what would be read as something else in a sources.list or on
// mmdebstrap's command line.
func check(img spec.Image) error {
	if img.Suite != "" && !suiteName.MatchString(img.Suite) {
		return fmt.Errorf("image suite %q is no name of a suite, such as \"bookworm\"", img.Suite)
	}
	if img.Mirror != "" {
		u, err := url.Parse(img.Mirror)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || strings.ContainsAny(img.Mirror, " \t\r\n[]\"") {
			return fmt.Errorf("image mirror %q is no http or https address", apt.Redact(img.Mirror))
		}
	}
	if img.Keyring != "" && (!filepath.IsAbs(img.Keyring) || strings.ContainsAny(img.Keyring, " \t\r\n]\",")) {
		return fmt.Errorf("image keyring %q is no absolute path without blanks", img.Keyring)
	}
	bad := slices.IndexFunc(img.Packages, func(p string) bool { return !packageName.MatchString(p) })
	if bad >= 0 {
		return fmt.Errorf("extra package %q is no name of a package", img.Packages[bad])
	}
	return nil
}

// packages are the base packages and the extra ones.
func packages(extra []string) []string {
	all := append(basePackages(), extra...)
	slices.Sort(all)
	return slices.Compact(all)
}

// basePackages are what every guest has: those of the NixOS module that bield
// follows, what booting needs, and what coding agents take for granted.
func basePackages() []string {
	return []string{
		"curl", "git", "htop", "sudo", "vim", "wget", "zsh", "openssh-server",
		"dbus", "kmod", "libpam-systemd", "systemd-sysv",
		"ca-certificates", "iproute2", "iputils-ping", "less", "netbase",
		"openssh-client", "procps", "rsync", "xz-utils",
	}
}

// kernelPackage depends on the newest kernel made for virtual machines.
func kernelPackage(distribution, arch string) string {
	if distribution == "ubuntu" {
		return "linux-image-virtual"
	}
	return "linux-image-cloud-" + arch
}
