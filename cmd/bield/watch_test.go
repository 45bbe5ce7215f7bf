package main

import (
	"slices"
	"testing"
)

func TestFit(t *testing.T) {
	lines := []string{"NAME  STATE", "one   running", "two   down", "three down"}
	for _, c := range []struct {
		width, height int
		want          []string
	}{
		{80, 24, lines},
		{80, 5, lines},
		{80, 4, []string{"NAME  STATE", "one   running", "… and 2 lines more"}},
		{11, 24, []string{"NAME  STATE", "one   runn…", "two   down", "three down"}},
		{80, 1, lines}, // no terminal is that small
	} {
		if got := fit(slices.Clone(lines), c.width, c.height); !slices.Equal(got, c.want) {
			t.Errorf("%d×%d: %q, want %q", c.width, c.height, got, c.want)
		}
	}
}
