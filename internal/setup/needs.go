package setup

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"

	"bield/internal/apt"
)

// Need is a program that bield uses and this host lacks.
type Need struct {
	// Program is what is looked for in the path.
	Program string
	// Purpose says what bield does with it.
	Purpose string
	// Package holds it in the host's distribution; "" where that has none.
	Package string
	// Optional needs are not in bield's way.
	Optional bool
}

// family is a group of distributions with the same package manager and names.
type family string

const (
	familyDebian family = "debian"
	familyFedora family = "fedora"
	familyArch   family = "arch"
	familyNix    family = "nixos"
	familyOther  family = ""
)

func familyOf(r apt.Release) family {
	for _, id := range append([]string{r.ID}, r.Like...) {
		switch id {
		case "debian", "ubuntu":
			return familyDebian
		case "fedora", "rhel":
			return familyFedora
		case "arch":
			return familyArch
		case "nixos":
			return familyNix
		}
	}
	return familyOther
}

// program is a program of bield's, with its package in each family.
type program struct {
	name, purpose string
	packages      map[family]string
	optional      bool
	// versioned programs answer --version.
	versioned bool
}

// qemu is the program that runs VMs of the host's architecture.
func qemu(arch string) program {
	p := program{name: "qemu-system-x86_64", packages: map[family]string{
		familyDebian: "qemu-system-x86", familyFedora: "qemu-system-x86-core",
		familyArch: "qemu-system-x86", familyNix: "qemu"}}
	if arch == "arm64" {
		p = program{name: "qemu-system-aarch64", packages: map[family]string{
			familyDebian: "qemu-system-arm", familyFedora: "qemu-system-aarch64-core",
			familyArch: "qemu-system-aarch64", familyNix: "qemu"}}
	}
	p.purpose, p.versioned = "runs the VMs", true
	return p
}

func programs(arch string) []program {
	same := func(name string) map[family]string {
		return map[family]string{familyDebian: name, familyFedora: name, familyArch: name, familyNix: name}
	}
	return []program{
		qemu(arch),
		{name: "mmdebstrap", purpose: "makes guest images", packages: map[family]string{
			familyDebian: "mmdebstrap", familyFedora: "mmdebstrap",
			familyArch: userRepository + "mmdebstrap", familyNix: "mmdebstrap"}},
		{name: "newuidmap", purpose: "is asked for by mmdebstrap", packages: map[family]string{
			familyDebian: "uidmap", familyFedora: "shadow-utils", familyArch: "shadow", familyNix: "shadow"}},
		{name: "mkfs.erofs", purpose: "makes root disks (storeOnDisk)", packages: same("erofs-utils")},
		{name: "ssh", purpose: "reaches the guests", packages: map[family]string{
			familyDebian: "openssh-client", familyFedora: "openssh-clients",
			familyArch: "openssh", familyNix: "openssh"}},
		{name: "nft", purpose: "shows bield's firewall rules to people", packages: same("nftables"), optional: true},
	}
}

// Host is what setup works on. The zero value is the machine itself.
type Host struct {
	// Root is where the host's files are; "" means "/".
	Root string
	// Path are the folders of programs; empty means PATH and the sbin folders.
	Path []string
	// CacheDir is bield's cache.
	CacheDir string
	// Arch is Go's name of its architecture; "" means that of this program.
	Arch string
}

func (h Host) arch() string {
	if h.Arch == "" {
		return runtime.GOARCH
	}
	return h.Arch
}

func (h Host) root() string {
	if h.Root == "" {
		return "/"
	}
	return h.Root
}

func (h Host) path() []string {
	if len(h.Path) > 0 {
		return h.Path
	}
	// A user's PATH often lacks the folders of the administrator.
	return append(filepath.SplitList(os.Getenv("PATH")), "/usr/local/sbin", "/usr/sbin", "/sbin")
}

// Missing lists what the host lacks, virtiofsd last.
func (h Host) Missing(ctx context.Context) ([]Need, error) {
	release, err := apt.HostRelease(h.root())
	if err != nil {
		return nil, err
	}
	fam := familyOf(release)
	var needs []Need
	for _, p := range programs(h.arch()) {
		if h.find(p.name) == "" {
			needs = append(needs, Need{Program: p.name, Purpose: p.purpose, Package: p.packages[fam], Optional: p.optional})
		}
	}
	switch _, err := h.Virtiofsd(ctx); {
	case errors.Is(err, ErrNoVirtiofsd):
		needs = append(needs, Need{Program: "virtiofsd", Purpose: "shares folders with the guests", Package: virtiofsdPackage(release)})
	case err != nil:
		return nil, err
	}
	return needs, nil
}

// virtiofsdPackage is the package with a recent enough virtiofsd, or "" where
// the distribution has none.
func virtiofsdPackage(r apt.Release) string {
	if bundled(r) {
		return ""
	}
	return "virtiofsd"
}

// bundled says whether the host takes virtiofsd out of a newer Debian: one
// before release 13. Debian's unstable has no VERSION_ID.
func bundled(r apt.Release) bool {
	return r.ID == "debian" && (r.VersionID == "11" || r.VersionID == "12")
}
