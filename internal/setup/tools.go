package setup

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"bield/internal/apt"
)

// Tool is a program of bield's as this host has it.
type Tool struct {
	Need
	// Path is where it is, "" where it is not.
	Path string
	// Version is what it says it is; "" where it is not asked.
	Version string
	// Problem is why what is there can't be used.
	Problem string
}

// Tools lists all programs, found or not, virtiofsd last. The error is ctx's.
func (h Host) Tools(ctx context.Context) ([]Tool, error) {
	// Without a name of the distribution no package has one.
	release, _ := apt.HostRelease(h.root())
	var tools []Tool
	for _, p := range programs(h.arch()) {
		tools = append(tools, h.tool(ctx, p, familyOf(release)))
	}
	t, err := h.virtiofsdTool(ctx, release)
	return append(tools, t), err
}

func (h Host) tool(ctx context.Context, p program, f family) Tool {
	t := Tool{Need: Need{Program: p.name, Purpose: p.purpose, Package: p.packages[f], Optional: p.optional}}
	if t.Path = h.find(p.name); t.Path == "" || !p.versioned {
		return t
	}
	version, err := askVersion(ctx, t.Path)
	if t.Version = version; err != nil {
		t.Problem = fmt.Sprintf("%s is not to be run: %v", t.Path, err)
	}
	return t
}

func (h Host) virtiofsdTool(ctx context.Context, release apt.Release) (Tool, error) {
	t := Tool{Need: Need{Program: "virtiofsd", Purpose: "shares folders with the guests", Package: virtiofsdPackage(release)}}
	argv, err := h.Virtiofsd(ctx)
	switch {
	case errors.Is(err, ErrNoVirtiofsd):
		t.Problem = strings.ReplaceAll(err.Error(), ": run `bield setup`", "")
		return t, nil
	case err != nil:
		return t, err
	}
	t.Path = argv[len(argv)-1]
	t.Version, err = virtiofsdVersion(ctx, argv)
	return t, err
}

var versionNumber = regexp.MustCompile(`version v?(\d+(?:\.\d+)+)`)

// askVersion reads "QEMU emulator version 7.2.22 (Debian …)".
func askVersion(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", err
	}
	found := versionNumber.FindSubmatch(out)
	if found == nil {
		return "", fmt.Errorf("no version in %.80q", out)
	}
	return string(found[1]), nil
}

// Advice is what a person does on this host's distribution to get what is
// missing: a line each.
func (h Host) Advice(needs []Need) []string {
	release, err := apt.HostRelease(h.root())
	if err != nil {
		return byName(needs)
	}
	switch f := familyOf(release); f {
	case familyDebian:
		return []string{"sudo bield setup"}
	case familyOther:
		return byName(needs)
	default:
		return f.commands(packagesOf(needs))
	}
}

func byName(needs []Need) []string {
	var names []string
	for _, n := range needs {
		names = append(names, n.Program)
	}
	return []string{"install by hand: " + strings.Join(names, ", ")}
}

// commands install packages; those of Arch's user repository are not pacman's.
func (f family) commands(packages []string) []string {
	own, users := slices.Clone(packages), []string(nil)
	own = slices.DeleteFunc(own, func(name string) bool {
		user, is := strings.CutPrefix(name, userRepository)
		if is {
			users = append(users, user)
		}
		return is
	})
	var all []string
	list := strings.Join(own, " ")
	switch {
	case len(own) == 0:
	case f == familyFedora:
		all = []string{"sudo dnf install " + list}
	case f == familyArch:
		all = []string{"sudo pacman -S --needed " + list}
	case f == familyNix:
		all = []string{
			"in configuration.nix: environment.systemPackages = with pkgs; [ " + list + " ]; then sudo nixos-rebuild switch",
			"or for one shell: nix-shell -p " + list,
		}
	}
	if users != nil {
		all = append(all, "from the AUR, by a helper such as paru or yay: paru -S "+strings.Join(users, " "))
	}
	return all
}

// userRepository marks a package of the Arch User Repository.
const userRepository = "aur/"

// find is where a program is, or "".
func (h Host) find(name string) string {
	for _, dir := range h.path() {
		if path := filepath.Join(dir, name); executable(path) {
			return path
		}
	}
	return ""
}
