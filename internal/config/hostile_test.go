package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bield/internal/spec"
)

// TestHostileFiles: whatever is written, the answer comes soon and is short.
func TestHostileFiles(t *testing.T) {
	var laughs strings.Builder
	laughs.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 30; i++ {
		ref := fmt.Sprintf("*a%d, ", i-1)
		fmt.Fprintf(&laughs, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(ref, 10), ", "))
	}
	var merges strings.Builder
	merges.WriteString("vms:\n  m0: &m0 {extraPackages: &p [" + strings.Repeat("git, ", 5000) + "git]}\n")
	for i := 1; i < 20000; i++ {
		fmt.Fprintf(&merges, "  m%d: {<<: *m0}\n", i)
	}
	name := strings.Repeat("n", 900_000)
	for label, yaml := range map[string]string{
		"laughs":          laughs.String() + "nameservers: [*a29]\nextraPackages: *a29\n",
		"laughs in use":   laughs.String() + "shares: *a29\nvms: {a: {extraPackages: *a29}}\n",
		"merged VMs":      merges.String(),
		"self":            "vms: &v {a: *v}\n",
		"self in lists":   "shares: &s [*s, *s, *s]\n",
		"self merge":      "vms: {a: &a {<<: [*a, *a, *a, *a], ip: 1.1.1.1}}\n",
		"deep":            strings.Repeat("[", 1<<19),
		"deep mappings":   strings.Repeat("{a: ", 1<<17),
		"deep block":      strings.Repeat("- ", 1<<19),
		"long name":       "vms: {" + name + ": {extraPackages: [" + strings.Repeat("x,", 50_000) + "x]}}",
		"long value":      "bridge: " + name,
		"long number":     "vms: {a: {vcpu: " + strings.Repeat("9", 900_000) + "}}",
		"many names":      "nameservers: [" + strings.Repeat("x,", 50_000) + "x]",
		"many shares":     "shares: [" + strings.Repeat("{source: /x},", 30_000) + "]\nvms: {a: {}, b: {}}\n",
		"many unknown":    strings.Repeat("{", 1) + manyKeys(40_000) + "}",
		"too large":       strings.Repeat("# comment\n", 1<<17),
		"not ended":       "bridge: \"" + name,
		"keys of a kind":  "? [a, b]\n: c\n? {a: b}\n: c\n",
		"NUL":             "bridge: \x00",
		"escaped NUL":     `vms: {"a\0b": {ip: "\0", workspace: "/\0"}}`,
		"bidi and colour": `bridge: "\u202e\x1b[31m"`,
	} {
		t.Run(label, func(t *testing.T) {
			start := time.Now()
			_, err := Parse("f.yaml", []byte(yaml), newFakeHost().env())
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("took %s", took)
			}
			list, ok := errors.AsType[*FileError](err)
			if !ok {
				t.Fatalf("error %T, want *FileError", err)
			}
			if len(list.Problems) > maxProblems || len(err.Error()) > 200_000 {
				t.Errorf("%d problems in %d bytes", len(list.Problems), len(err.Error()))
			}
			if strings.ContainsAny(err.Error(), "\x00\x1b\u202e") {
				t.Errorf("prints control characters: %.200q", err)
			}
		})
	}
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "key%d: 1, ", i)
	}
	return b.String()
}

func TestProblemsAreCounted(t *testing.T) {
	_, err := Parse("f.yaml", []byte("{"+manyKeys(500)+"}"), newFakeHost().env())
	list, _ := errors.AsType[*FileError](err)
	if list == nil || len(list.Problems) != maxProblems || list.Omitted != 300 || !strings.HasSuffix(err.Error(), "and 300 problems more") {
		t.Errorf("got %d and %v", len(list.Problems), list.Omitted)
	}
}

// travels holds a host that was accepted to what bieldd asks of it: it passes
// spec.Check, also after its way as JSON, which changes nothing.
func travels(t *testing.T, host spec.Host) {
	t.Helper()
	if problems := spec.Check(host); len(problems) > 0 {
		t.Errorf("accepted, and bieldd refuses it: %+v", problems)
	}
	text, err := json.Marshal(host)
	var again spec.Host
	if err == nil {
		err = json.Unmarshal(text, &again)
	}
	if err != nil {
		t.Fatalf("as JSON: %v", err)
	}
	if twice, err := json.Marshal(again); err != nil || !bytes.Equal(text, twice) || len(spec.Check(again)) > 0 {
		t.Errorf("changed on its way: %v\n%s\n%s", err, text, twice)
	}
}

// FuzzParse wants an answer for any bytes: a host that bieldd takes or a *FileError
// whose positions lie in the file.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, "../../examples/claude-home.yaml", "../../examples/minimal.yaml") {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("vms: {a: &a {<<: [*a, {b: *a}], ip: 192.168.83.2, workspace: ~/src/app}}"))
	env := newFakeHost().env()
	f.Fuzz(func(t *testing.T, data []byte) {
		start := time.Now()
		host, err := Parse("f.yaml", data, env)
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("took %s", took)
		}
		if err == nil {
			if host.Bridge == "" || !host.Subnet.IsValid() {
				t.Errorf("accepted, but not filled in: %+v", host)
			}
			travels(t, host)
			return
		}
		list, ok := errors.AsType[*FileError](err)
		if !ok || len(list.Problems) == 0 {
			t.Fatalf("error %T %v", err, err)
		}
		lines := strings.Count(string(data), "\n") + 2
		for _, p := range list.Problems {
			if p.Line < 0 || p.Line > lines+strings.Count(string(data), "\r") || p.Line > 0 && p.Column < 1 {
				t.Errorf("%d:%d is not in a file of %d lines: %s", p.Line, p.Column, lines, p.Message)
			}
		}
	})
}
