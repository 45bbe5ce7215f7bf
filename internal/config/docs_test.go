package config

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"bield/internal/spec"
)

const docsFile = "../../docs/configuration.md"

func optionStructs() map[string]reflect.Type {
	return map[string]reflect.Type{
		"host": reflect.TypeFor[hostFile](), "vm": reflect.TypeFor[vmFile](), "share": reflect.TypeFor[shareFile](),
		"user": reflect.TypeFor[userFile](), "image": reflect.TypeFor[imageFile](), "egress": reflect.TypeFor[egressFile](),
	}
}

// TestDocs holds docs/configuration.md to the structs: its tables, and what it
// says of its own examples.
func TestDocs(t *testing.T) {
	data, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	docs := string(data)
	for name, typ := range optionStructs() {
		marked := regexp.MustCompile(`(?s)(<!-- table: ` + name + ` -->\n).*?(<!-- end -->)`)
		if !marked.MatchString(docs) {
			t.Errorf("no table of %s", name)
		}
		docs = marked.ReplaceAllStringFunc(docs, func(string) string {
			return "<!-- table: " + name + " -->\n" + optionTable(typ) + "<!-- end -->"
		})
	}
	broken := regexp.MustCompile("(?s)(```yaml broken\n(.*?)```.*?```text\n).*?(```)")
	if m := broken.FindStringSubmatch(docs); m == nil {
		t.Error("no example of errors")
	} else {
		docs = strings.Replace(docs, m[0], m[1]+errorOf(t, m[2])+"\n"+m[3], 1)
	}
	golden(t, docsFile, docs)
	for _, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(docs, -1) {
		mustParse(t, m[1])
	}
	if !strings.Contains(docs, "```yaml\n"+Minimal+"```") {
		t.Error("the smallest file is not the one of Find's error")
	}
}

func optionTable(t reflect.Type) string {
	var b strings.Builder
	b.WriteString("| option | type | default | example | |\n|---|---|---|---|---|\n")
	for f := range t.Fields() {
		example := f.Tag.Get("example")
		if strings.HasPrefix(example, "[ssh-") {
			example = "[ssh-ed25519 AAAA… alice]"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | `%s` | %s |\n", f.Tag.Get("yaml"), typeInWords(f), defaultInWords(f), example, f.Tag.Get("jsonschema_description"))
	}
	return b.String()
}

func typeInWords(f reflect.StructField) string {
	if enums := regexp.MustCompile(`enum=([^,]*)`).FindAllStringSubmatch(f.Tag.Get("jsonschema"), -1); enums != nil {
		var values []string
		for _, e := range enums {
			values = append(values, "`"+e[1]+"`")
		}
		return strings.Join(values, ", ")
	}
	return map[string]string{
		"*string": "text", "*bool": "`true`, `false`", "*int": "number", "*uint32": "number", "[]string": "list of text",
		"*config.memory": "number or text", "*config.seconds": "number or text", "*config.account": "name or number", "*config.ratio": "number",
		"[]config.shareFile": "list of [shares](#shares)", "*config.userFile": "[user](#the-user)",
		"*config.imageFile": "[image](#the-image)", "*config.egressFile": "[egress](#egress)", "map[string]*config.vmFile": "[VMs](#options-of-a-vm) by name",
	}[f.Type.String()]
}

func constantDefault(f reflect.StructField) string {
	if m := regexp.MustCompile(`(?:^|,)default=([^,]*)`).FindStringSubmatch(f.Tag.Get("jsonschema")); m != nil {
		return m[1]
	}
	return ""
}

func defaultInWords(f reflect.StructField) string {
	switch d := constantDefault(f); {
	case d != "":
		return "`" + d + "`"
	case strings.Contains(f.Tag.Get("jsonschema"), "required"):
		return "**required**"
	}
	return f.Tag.Get("default")
}

// TestOptionsAreDocumented: each has a meaning, an example, a type in words,
// and a default unless it is required.
func TestOptionsAreDocumented(t *testing.T) {
	for name, typ := range optionStructs() {
		for f := range typ.Fields() {
			if f.Tag.Get("yaml") == "" || f.Tag.Get("jsonschema_description") == "" || f.Tag.Get("example") == "" || typeInWords(f) == "" || defaultInWords(f) == "" {
				t.Errorf("%s.%s is not documented", name, f.Name)
			}
		}
	}
}

// inPlace puts one option into a file that is right without it.
func inPlace(place, option, value string) string {
	vm := map[string]string{"ip": "192.168.83.2", "workspace": "/home/alice/src/app"}
	set := func(m map[string]string) string {
		m[option] = value
		var parts []string
		for k, v := range m {
			parts = append(parts, k+": "+v)
		}
		return "{" + strings.Join(parts, ", ") + "}"
	}
	flow := func(m map[string]string) string {
		return "{ip: " + m["ip"] + ", workspace: " + m["workspace"] + "}"
	}
	switch place {
	case "host":
		if option == "vms" {
			return "vms: " + value
		}
		return option + ": " + value + "\nvms: {a: " + flow(vm) + "}"
	case "vm":
		return "vms: {a: " + set(vm) + "}"
	case "share":
		return "shares: [" + set(map[string]string{"source": "/home/alice/.claude"}) + "]\nvms: {a: " + flow(vm) + "}"
	case "user":
		return "user: " + set(map[string]string{"name": "alice"}) + "\nvms: {a: " + flow(vm) + "}"
	}
	return place + ": " + set(map[string]string{}) + "\nvms: {a: " + flow(vm) + "}"
}

// TestExamplesInTags: what errors tell a person to write is right.
func TestExamplesInTags(t *testing.T) {
	h := newFakeHost()
	h.paths["/usr/share/keyrings/debian-archive-keyring.gpg"] = PathInfo{Real: "/usr/share/keyrings/debian-archive-keyring.gpg"}
	for name, typ := range optionStructs() {
		for f := range typ.Fields() {
			yaml := inPlace(name, f.Tag.Get("yaml"), f.Tag.Get("example"))
			if _, err := Parse("f.yaml", []byte(yaml), h.env()); err != nil {
				t.Errorf("%s\n%v", yaml, err)
			}
		}
	}
}

// TestDefaultsInTags: a file that writes a default out means the same.
func TestDefaultsInTags(t *testing.T) {
	tried := 0
	for name, typ := range optionStructs() {
		for f := range typ.Fields() {
			d := constantDefault(f)
			if d == "" && regexp.MustCompile(`^(\[.*\]|[0-9]+s?)$`).MatchString(f.Tag.Get("default")) {
				d = f.Tag.Get("default")
			}
			if d == "" {
				continue
			}
			tried++
			base := map[string]string{"share": "source", "user": "name", "image": "suite", "egress": "mode"}[name]
			without := inPlace(name, "stopTimeout", "10s")
			if base != "" {
				without = inPlace(name, base, map[string]string{"source": "/home/alice/.claude", "name": "alice", "suite": "bookworm", "mode": "public"}[base])
			}
			got, want := mustParse(t, inPlace(name, f.Tag.Get("yaml"), d)), mustParse(t, without)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s.%s: %s is not the default:\n%+v\n%+v", name, f.Tag.Get("yaml"), d, got, want)
			}
		}
	}
	if tried < 12 {
		t.Errorf("only %d defaults tried", tried)
	}
	if spec.DefaultVCPU != 8 || maxVMs != 1024 || maxValues != 100_000 || maxDepth != 32 || spec.MaxShares != 16 || maxProblems != 200 {
		t.Error("docs/configuration.md says otherwise")
	}
}
