package apt

import (
	"bufio"
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// Entry is one entry of the host's apt configuration, of whatever origin.
type Entry struct {
	Types      []string
	URIs       []string
	Suites     []string
	Components []string
	// SignedBy holds the words of the option: paths or fingerprints.
	SignedBy []string
	// InlineKey says that the entry carries its key in its own text.
	InlineKey bool
	Disabled  bool
}

// binary says whether the entry offers binary packages and is switched on.
func (e Entry) binary() bool { return !e.Disabled && slices.Contains(e.Types, "deb") }

// ParseList reads the one-line format of sources.list(5).
func ParseList(data []byte) ([]Entry, error) {
	var entries []Entry
	for n, line := range lines(data) {
		line, _, _ = strings.Cut(line, "#")
		words, err := splitWords(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n+1, err)
		}
		if len(words) == 0 {
			continue
		}
		entry, err := entryOf(words)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n+1, err)
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

func lines(data []byte) []string {
	return strings.Split(string(bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))), "\n")
}

// splitWords splits at blanks, but keeps together what stands in brackets or
// double quotes: "cdrom:[Debian 12]/" is one word.
func splitWords(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	var closing rune
	for _, r := range line {
		switch {
		case closing != 0:
			if r == closing {
				closing = 0
			}
		case r == '[':
			closing = ']'
		case r == '"':
			closing = '"'
		case r == ' ' || r == '\t':
			if word.Len() > 0 {
				words = append(words, word.String())
				word.Reset()
			}
			continue
		}
		word.WriteRune(r)
	}
	if closing != 0 {
		return nil, fmt.Errorf("%q is missing", string(closing))
	}
	if word.Len() > 0 {
		words = append(words, word.String())
	}
	return words, nil
}

func entryOf(words []string) (Entry, error) {
	entry := Entry{Types: words[:1]}
	rest := words[1:]
	if len(rest) > 0 && strings.HasPrefix(rest[0], "[") {
		options, ok := strings.CutSuffix(rest[0][1:], "]")
		if !ok {
			return Entry{}, fmt.Errorf("text follows the options %s without a blank", rest[0])
		}
		entry.takeOptions(options)
		rest = rest[1:]
	}
	if len(rest) < 2 {
		return Entry{}, fmt.Errorf("a source needs a URI and a suite")
	}
	entry.URIs, entry.Suites, entry.Components = rest[:1], rest[1:2], rest[2:]
	return entry, nil
}

func (e *Entry) takeOptions(options string) {
	for _, option := range strings.Fields(options) {
		key, value, _ := strings.Cut(option, "=")
		switch strings.ToLower(key) {
		case "signed-by":
			e.SignedBy = strings.FieldsFunc(value, func(r rune) bool { return r == ',' })
		case "enabled":
			e.Disabled = isNo(value)
		}
	}
}

// isNo follows apt's StringToBool.
func isNo(value string) bool {
	return slices.Contains([]string{"no", "false", "without", "off", "disable", "0"},
		strings.ToLower(strings.TrimSpace(value)))
}

// ParseDeb822 reads the stanza format of sources.list(5).
func ParseDeb822(data []byte) ([]Entry, error) {
	stanzas, err := parseStanzas(data)
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for _, s := range stanzas {
		entry := Entry{
			Types:      strings.Fields(s.fields["types"]),
			URIs:       strings.Fields(s.fields["uris"]),
			Suites:     strings.Fields(s.fields["suites"]),
			Components: strings.Fields(s.fields["components"]),
			Disabled:   isNo(s.fields["enabled"]),
		}
		entry.takeSignedBy(s.fields["signed-by"])
		if len(entry.Types) == 0 || len(entry.URIs) == 0 || len(entry.Suites) == 0 {
			return nil, fmt.Errorf("line %d: a source needs Types, URIs and Suites", s.line)
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

func (e *Entry) takeSignedBy(value string) {
	if strings.Contains(value, "-----BEGIN") {
		e.InlineKey = true
		return
	}
	e.SignedBy = strings.FieldsFunc(value, func(r rune) bool {
		return r == ',' || r == ' ' || r == '\t' || r == '\n'
	})
}

// stanza is one block of a control file: fields by lower-case name, and the
// line it begins at.
type stanza struct {
	line   int
	fields map[string]string
}

// parseStanzas reads deb822(5): blocks parted by empty lines, comments that
// begin a line with '#', values that go on in lines that begin with a blank.
func parseStanzas(data []byte) ([]stanza, error) {
	var out []stanza
	var current stanza
	var field string
	flush := func() {
		if current.fields != nil {
			out = append(out, current)
		}
		current, field = stanza{}, ""
	}
	for n, line := range lines(data) {
		switch {
		case strings.TrimSpace(line) == "":
			flush()
		case line[0] == '#':
		case line[0] == ' ' || line[0] == '\t':
			if field == "" {
				return nil, fmt.Errorf("line %d: the continuation of no field", n+1)
			}
			current.fields[field] += "\n" + strings.TrimSpace(line)
		default:
			name, value, ok := strings.Cut(line, ":")
			if !ok {
				return nil, fmt.Errorf("line %d: %q is no field: expected NAME: VALUE", n+1, line)
			}
			if current.fields == nil {
				current = stanza{line: n + 1, fields: map[string]string{}}
			}
			field = strings.ToLower(strings.TrimSpace(name))
			current.fields[field] = strings.TrimSpace(value)
		}
	}
	flush()
	return out, nil
}

// releaseFields reads the first stanza of a Release or InRelease file, up to
// the list of hashes.
func releaseFields(data []byte) map[string]string {
	fields := map[string]string{}
	scan := bufio.NewScanner(bytes.NewReader(data))
	for scan.Scan() {
		line := scan.Text()
		if strings.HasPrefix(line, " ") {
			break
		}
		if name, value, ok := strings.Cut(line, ":"); ok {
			fields[strings.ToLower(name)] = strings.TrimSpace(value)
		}
	}
	return fields
}
