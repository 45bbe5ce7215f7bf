package registries

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"bield/internal/spec"
)

// ErrUnknown says that there is no such preset.
var ErrUnknown = errors.New("no such preset")

// Host is whose configuration counts.
type Host struct {
	// Root is "/", but in tests.
	Root string
	// Home is the home of who called, or called sudo; "" is none.
	Home string
	// Environ is the caller's environment, of which the clients' own variables
	// count.
	Environ []string
	// As is who clients run as; nil is this process's own user. Only root can
	// run them as another.
	As *spec.ID
}

// Answer is what a preset stands for.
type Answer struct {
	// Targets are sorted, each with its port and the preset's name. Private
	// marks those that the configuration names itself.
	Targets []spec.Target
	// Files are the absolute paths that decide it, there or not: who can write
	// one of them can open any host.
	Files []string
}

// client finds the registries of one package manager.
type client func(context.Context, *search) error

func clients() map[string]client {
	return map[string]client{"npm": npm, "pypi": pypi, "go": golang, "debian": debian, "crates": crates}
}

// Presets lists the names of all presets in order.
func Presets() []string {
	return slices.Sorted(maps.Keys(clientsAndData()))
}

func clientsAndData() map[string]bool {
	all := map[string]bool{}
	for name := range clients() {
		all[name] = true
	}
	for name := range data() {
		all[name] = true
	}
	return all
}

// Lookup says what a preset stands for on this host, now. A preset that is not
// there is ErrUnknown; a client that is neither configured nor installed is an
// error that says what to write instead.
func (h Host) Lookup(ctx context.Context, preset string) (Answer, error) {
	if targets, there := data()[preset]; there {
		return Answer{Targets: tagged(targets, preset)}, nil
	}
	find, there := clients()[preset]
	if !there {
		return Answer{}, fmt.Errorf("%q: %w%s: there are %s", preset, ErrUnknown, meant(preset), strings.Join(Presets(), ", "))
	}
	s := &search{Host: h}
	if err := find(ctx, s); err != nil {
		return Answer{}, fmt.Errorf("the preset %s: %w — or write the registry's names in its place", preset, err)
	}
	if len(s.found) == 0 {
		return Answer{}, fmt.Errorf("the preset %s: the configuration of this host names no registry — write the registry's names in its place", preset)
	}
	return Answer{Targets: tagged(s.found, preset), Files: s.files}, nil
}

// tagged sorts targets, marks them, and drops those that are there twice.
func tagged(targets []spec.Target, preset string) []spec.Target {
	all := slices.Clone(targets)
	for i := range all {
		all[i].Preset = preset
	}
	slices.SortFunc(all, func(a, b spec.Target) int {
		// One that may be private stands before its twin.
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port), -compareBool(a.Private, b.Private))
	})
	return slices.CompactFunc(all, func(a, b spec.Target) bool {
		return a.Name == b.Name && a.Port == b.Port
	})
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// meant guesses at a misspelt name.
func meant(name string) string {
	best, distance := "", 3
	for _, p := range Presets() {
		if d := edits(name, p); d < distance && d < len(p) {
			best, distance = p, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(", did you mean %s?", best)
}

// edits counts the letters to change, put in or leave out (Levenshtein).
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := last
			if a[i] != b[j] {
				cost++
			}
			last = row[j+1]
			row[j+1] = min(cost, row[j]+1, last+1)
		}
	}
	return row[len(b)]
}
