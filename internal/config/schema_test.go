package config

import (
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// schemaNode is the part of JSON Schema that Schema uses.
type schemaNode struct {
	Ref                  string                `json:"$ref"`
	Defs                 map[string]schemaNode `json:"$defs"`
	Type                 string                `json:"type"`
	Properties           map[string]schemaNode `json:"properties"`
	Required             []string              `json:"required"`
	AdditionalProperties json.RawMessage       `json:"additionalProperties"`
	PropertyNames        *schemaNode           `json:"propertyNames"`
	Items                *schemaNode           `json:"items"`
	OneOf                []schemaNode          `json:"oneOf"`
	Enum                 []string              `json:"enum"`
	Pattern              string                `json:"pattern"`
	Description          string                `json:"description"`
}

func readSchema(t *testing.T) schemaNode {
	t.Helper()
	data, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	var s schemaNode
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// fits checks a value as a JSON Schema validator would, and says where not.
func fits(root, s schemaNode, value any, at string) string {
	if s.Ref != "" {
		s = root.Defs[strings.TrimPrefix(s.Ref, "#/$defs/")]
	}
	if len(s.OneOf) > 0 {
		fitting := 0
		for _, o := range s.OneOf {
			if fits(root, o, value, at) == "" {
				fitting++
			}
		}
		if fitting != 1 {
			return at + ": fits " + string(rune('0'+fitting)) + " of oneOf"
		}
		return ""
	}
	switch v := value.(type) {
	case map[string]any:
		return fitsObject(root, s, v, at)
	case []any:
		if s.Type != "array" {
			return at + ": is a list"
		}
		for _, item := range v {
			if m := fits(root, *s.Items, item, at+"[]"); m != "" {
				return m
			}
		}
	case string:
		if s.Type != "string" || s.Enum != nil && !slices.Contains(s.Enum, v) || !regexp.MustCompile(s.Pattern).MatchString(v) {
			return at + ": is the text " + v
		}
	case bool:
		if s.Type != "boolean" {
			return at + ": is a truth value"
		}
	case float64:
		if s.Type != "number" {
			return at + ": is a fraction"
		}
	default:
		if s.Type != "integer" && s.Type != "number" {
			return at + ": is a " + reflect.TypeOf(value).String()
		}
	}
	return ""
}

func fitsObject(root, s schemaNode, v map[string]any, at string) string {
	if s.Type != "object" {
		return at + ": is a mapping"
	}
	for _, name := range s.Required {
		if _, ok := v[name]; !ok {
			return at + ": lacks " + name
		}
	}
	for name, value := range v {
		sub, known := s.Properties[name]
		if !known {
			if s.PropertyNames == nil || !regexp.MustCompile(s.PropertyNames.Pattern).MatchString(name) {
				return at + ": does not know " + name
			}
			if err := json.Unmarshal(s.AdditionalProperties, &sub); err != nil {
				return at + ": " + err.Error()
			}
		}
		if m := fits(root, sub, value, at+"."+name); m != "" {
			return m
		}
	}
	return ""
}

func TestSchemaKnowsEveryOption(t *testing.T) {
	root := readSchema(t)
	for name, typ := range optionStructs() {
		s := root
		if name != "host" {
			s = root.Defs[name]
		}
		if name == "egress" { // or its mode alone
			s = s.OneOf[1]
		}
		if string(s.AdditionalProperties) != "false" {
			t.Errorf("%s: unknown options pass", name)
		}
		if len(s.Properties) != typ.NumField() {
			t.Errorf("%s: %d properties, %d options", name, len(s.Properties), typ.NumField())
		}
		for f := range typ.Fields() {
			p, ok := s.Properties[f.Tag.Get("yaml")]
			if !ok || p.Description == "" {
				t.Errorf("%s.%s is missing or has no description", name, f.Tag.Get("yaml"))
			}
		}
	}
}

func TestSchemaAndParseAgree(t *testing.T) {
	root := readSchema(t)
	check := func(text string) string {
		var value map[string]any
		if err := yaml.Unmarshal([]byte(text), &value); err != nil {
			t.Fatal(err)
		}
		return fits(root, root, value, "")
	}
	for _, file := range []string{"claude-home", "minimal"} {
		data, err := os.ReadFile("../../examples/" + file + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		if m := check(string(data)); m != "" {
			t.Errorf("%s: %s", file, m)
		}
	}
	for name, typ := range optionStructs() {
		for f := range typ.Fields() {
			if m := check(inPlace(name, f.Tag.Get("yaml"), f.Tag.Get("example"))); m != "" {
				t.Errorf("the example of %s.%s: %s", name, f.Tag.Get("yaml"), m)
			}
		}
	}
	for _, text := range []string{"bridge: 1", "vms: {A: {ip: a, workspace: b}}", "vms: {a: {ip: 1.2.3.4}}", "hypervisor: xen",
		"shares: [{tag: x}]", "vms: {a: {ip: a, workspace: b, mem: 4GB}}", "user: alice", "x: 1", "egress: closed",
		"egress: {mode: [open]}", "egress: {to: a.example}"} {
		if check(text) == "" {
			t.Errorf("the schema accepts %s", text)
		}
		errorOf(t, text)
	}
}
