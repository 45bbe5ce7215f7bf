package main

import (
	"bytes"
	"strings"
)

// plainLine is text that a guest may have had a hand in, as one line without
// anything that a terminal obeys.
func plainLine(text string) string {
	var out bytes.Buffer
	_, _ = (&plainWriter{w: &out}).Write([]byte(strings.ReplaceAll(text, "\n", " / ")))
	return strings.ReplaceAll(out.String(), "\t", " ")
}

// plainLines is plainLine for a text of several lines: a guest's last words may
// be among them.
func plainLines(text string) string {
	var out bytes.Buffer
	_, _ = (&plainWriter{w: &out}).Write([]byte(text))
	return out.String()
}
