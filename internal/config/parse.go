package config

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"unicode"
	"unicode/utf8"

	"bield/internal/spec"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

// maxFileBytes bounds what is read.
const maxFileBytes = 1 << 20

// Parse reads a file's content; name stands in front of its errors, which are
// a *FileError. It does not ask where the content came from: Load does.
func Parse(name string, data []byte, env Env) (spec.Host, error) {
	return parse(name, data, nil, env)
}

// parse also refuses shares that hold one of the paths the file was found by.
func parse(name string, data []byte, foundBy []string, env Env) (spec.Host, error) {
	rep := newReport(name)
	root := compose(rep, data)
	if root == nil {
		return spec.Host{}, rep.err()
	}
	var file hostFile
	d := &decoder{report: rep}
	d.decode(root, reflect.ValueOf(&file).Elem(), option{}, 0)
	if d.gaveUp {
		return spec.Host{}, rep.err()
	}
	host := resolve(rep, file, foundBy, env)
	if err := rep.err(); err != nil {
		return spec.Host{}, err
	}
	return host, nil
}

// compose reads exactly one YAML document, or reports why not and returns nil.
func compose(rep *report, data []byte) *yaml.Node {
	if !checkText(rep, data) {
		return nil
	}
	loader, err := yaml.NewLoader(bytes.NewReader(data), yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(2*maxDepth))))
	if err != nil {
		rep.add(nil, "prepare the YAML reader: %v", err)
		return nil
	}
	var doc, second yaml.Node
	err = loader.Load(&doc)
	if errors.Is(err, io.EOF) || err == nil && (len(doc.Content) == 0 || isNull(doc.Content[0])) {
		rep.add(nil, "the file is empty — write at least:\n%s", strings.TrimSpace(Minimal))
		return nil
	}
	if err == nil {
		if err = loader.Load(&second); errors.Is(err, io.EOF) {
			return doc.Content[0]
		}
	}
	if err != nil {
		reportSyntax(rep, data, err)
		return nil
	}
	rep.put(position{max(second.Line, 1), max(second.Column, 1)}, nil, "a second YAML document begins here — keep one, and remove the ---")
	return nil
}

func reportSyntax(rep *report, data []byte, err error) {
	var load *yaml.LoadError
	if !errors.As(err, &load) {
		rep.add(nil, "no YAML: %v", err)
		return
	}
	at := position{max(load.Mark.Line, 1), max(load.Mark.Column, 1)}
	message := load.Message
	if load.ContextMsg != "" {
		message += " " + load.ContextMsg
	}
	rep.put(at, nil, "no YAML: %s — %s", strings.ToValidUTF8(message, "?"), syntaxHint(message, lineOf(data, at.line)))
}

// lineOf counts from 1; lines that are not there are empty.
func lineOf(data []byte, n int) string {
	for line := range bytes.Lines(data) {
		if n--; n == 0 {
			return string(line)
		}
	}
	return ""
}

func syntaxHint(message, line string) string {
	switch {
	case strings.Contains(message, "tab character"), strings.HasPrefix(strings.TrimLeft(line, " "), "\t"):
		return "indent with spaces, not with tabs"
	case strings.Contains(message, "anchor"):
		return "write the value out, or name it before with &"
	case strings.Contains(message, "max depth"):
		return "options nest only a few levels deep"
	case strings.Contains(message, "mapping values"):
		return "put text with a colon in quotes, and each option on a line of its own"
	case strings.Contains(message, "end of stream") || strings.Contains(message, "quoted scalar"):
		return "close the quotes"
	case strings.Contains(message, "flow"):
		return "close the bracket, and put commas between items"
	}
	return "look at the indentation, the quotes and the brackets here and in the line before"
}

// checkText finds what the YAML reader refuses without saying where, and the
// line ends that YAML counts and editors do not.
func checkText(rep *report, data []byte) bool {
	if len(data) > maxFileBytes {
		rep.put(position{}, nil, "the file is over %d bytes — keep it smaller", maxFileBytes)
		return false
	}
	line, column := 1, 1
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		at := position{line, column}
		switch {
		case r == utf8.RuneError && size == 1:
			rep.put(at, nil, "the byte 0x%02x is no UTF-8 — save the file as UTF-8", data[i])
			return false
		case unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t', r == '\u2028', r == '\u2029':
			rep.put(at, nil, "the control character %U is not allowed — remove it", r)
			return false
		}
		column++
		if r == '\n' {
			line, column = line+1, 1
		}
		i += size
	}
	return true
}
