package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxProblems bounds what a report shows; the rest is counted.
const maxProblems = 200

// Problem is one fault of a file.
type Problem struct {
	// Line and Column count from 1; Line 0 means the file as a whole.
	Line, Column int
	// Message names the option, what is wrong and what to write instead.
	Message string
}

// FileError is all that is wrong with one file, sorted by position.
type FileError struct {
	File     string
	Problems []Problem
	// Omitted counts the problems beyond those listed.
	Omitted int
}

// Error has one line for each problem: "file:line:column: message".
func (e *FileError) Error() string {
	var b strings.Builder
	for i, p := range e.Problems {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(printable(e.File))
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
		}
		b.WriteString(": " + p.Message)
	}
	if e.Omitted > 0 {
		fmt.Fprintf(&b, "\n%s: and %d problems more", printable(e.File), e.Omitted)
	}
	return b.String()
}

// refuse is an error about the file as a whole.
func refuse(file, format string, args ...any) error {
	return &FileError{File: file, Problems: []Problem{{Message: fmt.Sprintf(format, args...)}}}
}

type position struct{ line, column int }

// location is a path of option names, VM names and list indices.
type location []string

func (l location) to(parts ...string) location { return append(slices.Clip(l), parts...) }

// key makes a location a map key; no option or index holds the separator.
func (l location) key() string { return strings.Join(l, "\x00") }

// String writes a location as people do: vms.claude-home.shares[0].tag.
func (l location) String() string {
	var b strings.Builder
	for i, part := range l {
		_, notIndex := strconv.Atoi(part)
		switch {
		case notIndex == nil && i > 0 && !(i == 1 && l[0] == "vms"):
			b.WriteString("[" + part + "]")
			continue
		case i > 0:
			b.WriteByte('.')
		}
		if strings.ContainsAny(part, ".:") {
			part = quote(part)
		} else {
			part = brief(part)
		}
		b.WriteString(part)
	}
	return b.String()
}

// report collects the problems of one file.
type report struct {
	file     string
	problems []Problem
	where    map[string]position
	// broken holds what did not decode, flagged that and what was said since.
	broken, flagged map[string]bool
}

func newReport(file string) *report {
	return &report{file: file, where: map[string]position{}, broken: map[string]bool{}, flagged: map[string]bool{}}
}

// add reports a problem of the option at l, at the place where it or the
// nearest thing around it stands. It says nothing of an option that did not
// decode: that would only follow from the first fault.
func (r *report) add(l location, format string, args ...any) {
	if !r.isBroken(l) {
		r.flagged[l.key()] = true
		r.put(r.find(l), l, format, args...)
	}
}

// addBroken reports that the value of the option at l could not be read.
func (r *report) addBroken(p position, l location, format string, args ...any) {
	r.broken[l.key()] = true
	r.put(p, l, format, args...)
}

func (r *report) put(p position, l location, format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	if len(l) > 0 {
		message = l.String() + ": " + message
	}
	r.problems = append(r.problems, Problem{Line: p.line, Column: p.column, Message: message})
}

func (r *report) find(l location) position {
	for n := len(l); n >= 0; n-- {
		if p, ok := r.where[l[:n].key()]; ok {
			return p
		}
	}
	return position{1, 1}
}

// isBroken reports whether l or what holds it did not decode.
func (r *report) isBroken(l location) bool {
	for n := len(l); n > 0; n-- {
		if r.broken[l[:n].key()] {
			return true
		}
	}
	return false
}

// err is nil or a *FileError.
func (r *report) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	slices.SortFunc(r.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.Message, b.Message))
	})
	list := slices.Compact(r.problems)
	shown := list[:min(len(list), maxProblems)]
	return &FileError{File: r.file, Problems: shown, Omitted: len(list) - len(shown)}
}

// longestShown is in bytes.
const longestShown = 80

// quote makes what a file says safe for a terminal, and short.
func quote(s string) string {
	if len(s) > longestShown {
		return strconv.Quote(strings.ToValidUTF8(s[:longestShown], "")) + "…"
	}
	return strconv.Quote(s)
}

// brief is quote without the quotes where they are not needed.
func brief(s string) string {
	if q := quote(s); q != `"`+s+`"` || s == "" || strings.Contains(s, " ") {
		return q
	}
	return s
}

func printable(s string) string {
	if q := strconv.Quote(s); q != `"`+s+`"` {
		return q
	}
	return s
}
