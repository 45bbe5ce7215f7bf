package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

const (
	// maxDepth is far more than the options nest.
	maxDepth = 32
	// maxValues bounds what aliases can multiply.
	maxValues = 100_000
	// maxScalar is in bytes; the longest that makes sense is a public key.
	maxScalar = 16 << 10
)

// decoder writes a YAML tree into the structs of file.go, remembers where
// every option stands and reports all that does not fit.
type decoder struct {
	*report
	values int
	gaveUp bool
}

// option is what is known of a value's place.
type option struct {
	at      location
	example string
}

func (d *decoder) decode(n *yaml.Node, out reflect.Value, o option, depth int) {
	at := position{n.Line, n.Column}
	if d.values++; d.values > maxValues || depth > maxDepth {
		d.giveUp(at)
		return
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if _, known := d.where[o.at.key()]; !known {
		d.where[o.at.key()] = at
	}
	if isNull(n) {
		d.addBroken(at, o.at, "%s", noValue(n, o.example))
		return
	}
	if out.Kind() == reflect.Pointer {
		value := reflect.New(out.Type().Elem())
		d.decodeValue(n, value.Elem(), o, at, depth)
		if !d.broken[o.at.key()] {
			out.Set(value)
		}
		return
	}
	d.decodeValue(n, out, o, at, depth)
}

func noValue(n *yaml.Node, example string) string {
	if n.Value == "~" {
		return "YAML takes a lone ~ for nothing — write \"~\" in quotes for the home folder"
	}
	return "has no value — write for example " + example + ", or remove the line"
}

func (d *decoder) decodeValue(n *yaml.Node, out reflect.Value, o option, at position, depth int) {
	switch out.Kind() {
	case reflect.Struct:
		d.decodeStruct(n, out, o, at, depth)
	case reflect.Map:
		d.decodeMap(n, out, o, at, depth)
	case reflect.Slice:
		d.decodeList(n, out, o, at, depth)
	default:
		d.decodeScalar(n, out, o, at)
	}
}

// giveUp reports once.
func (d *decoder) giveUp(at position) {
	if !d.gaveUp {
		d.put(at, nil, "the values, aliases written out, are too many or nest too deep — simplify the file")
		d.gaveUp = true
	}
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

func (d *decoder) decodeStruct(n *yaml.Node, out reflect.Value, o option, at position, depth int) {
	if f, ok := shortForm(out.Type()); ok && n.Kind == yaml.ScalarNode {
		d.where[o.at.to(f.Tag.Get("yaml")).key()] = at
		value := reflect.New(f.Type.Elem())
		d.decodeScalar(n, value.Elem(), option{at: o.at, example: f.Tag.Get("example")}, at)
		out.FieldByIndex(f.Index).Set(value)
		return
	}
	if !d.wantKind(n, yaml.MappingNode, o, at) {
		return
	}
	fields := optionsOf(out.Type())
	for _, e := range d.entries(n, o, depth) {
		f, known := fields[e.key.Value]
		if !known {
			d.addBroken(e.at, o.at.to(e.key.Value), "%s", unknownOption(e.key.Value, out.Type()))
			continue
		}
		sub := option{at: o.at.to(e.key.Value), example: f.Tag.Get("example")}
		if e.value.Kind != yaml.ScalarNode && e.value.Kind != yaml.AliasNode {
			d.where[sub.at.key()] = e.at
		}
		d.decode(e.value, out.FieldByIndex(f.Index), sub, depth+1)
	}
}

func (d *decoder) decodeMap(n *yaml.Node, out reflect.Value, o option, at position, depth int) {
	if !d.wantKind(n, yaml.MappingNode, o, at) {
		return
	}
	out.Set(reflect.MakeMap(out.Type()))
	for _, e := range d.entries(n, o, depth) {
		sub := option{at: o.at.to(e.key.Value), example: "{ip: 192.168.83.2, workspace: ~/src/app}"}
		d.where[sub.at.key()] = e.at
		if tag := e.key.ShortTag(); tag != "!!str" {
			d.addBroken(e.at, sub.at, "YAML takes this name for %s — put it in quotes", kindOf(e.key))
			continue
		}
		value := reflect.New(out.Type().Elem()).Elem()
		d.decode(e.value, value, sub, depth+1)
		if !value.IsNil() {
			out.SetMapIndex(reflect.ValueOf(e.key.Value), value)
		}
	}
}

func (d *decoder) decodeList(n *yaml.Node, out reflect.Value, o option, at position, depth int) {
	if !d.wantKind(n, yaml.SequenceNode, o, at) {
		return
	}
	out.Set(reflect.MakeSlice(out.Type(), 0, min(len(n.Content), 64)))
	example := strings.TrimSuffix(strings.TrimPrefix(o.example, "["), "]")
	for i, c := range n.Content {
		item := reflect.New(out.Type().Elem()).Elem()
		d.decode(c, item, option{at: o.at.to(strconv.Itoa(i)), example: example}, depth+1)
		out.Set(reflect.Append(out, item))
		if d.values > maxValues {
			return
		}
	}
}

func (d *decoder) wantKind(n *yaml.Node, kind yaml.Kind, o option, at position) bool {
	known := map[yaml.Kind]string{yaml.MappingNode: "!!map", yaml.SequenceNode: "!!seq"}
	switch {
	case n.Kind != kind && len(o.at) == 0:
		d.addBroken(at, nil, "the file is %s, but must hold options — write for example bridge: microbr", kindOf(n))
	case n.Kind != kind:
		d.addBroken(at, o.at, "is %s — write for example %s", kindOf(n), o.example)
	case n.ShortTag() != known[kind]:
		d.addBroken(at, o.at, "has the tag %s, which means nothing here — remove it", quote(n.Tag))
	default:
		return true
	}
	return false
}

// kindOf names what YAML makes of a node.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	value := n.Value
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!int", "!!float":
		return "the number " + brief(value)
	case "!!bool":
		return "the truth value " + brief(value)
	case "!!timestamp":
		return "the date " + brief(value)
	case "!!str":
		return "the text " + quote(value)
	}
	return quote(value) + " with the tag " + quote(n.Tag)
}

func (d *decoder) decodeScalar(n *yaml.Node, out reflect.Value, o option, at position) {
	if n.Kind != yaml.ScalarNode {
		d.addBroken(at, o.at, "is %s — write one value, for example %s", kindOf(n), o.example)
		return
	}
	if len(n.Value) > maxScalar {
		d.addBroken(at, o.at, "has %d bytes, which is too long — write for example %s", len(n.Value), o.example)
		return
	}
	switch out.Kind() {
	case reflect.Bool:
		d.decodeBool(n, out, o, at)
	case reflect.Int, reflect.Uint32:
		d.decodeInt(n, out, o, at)
	default:
		d.decodeText(n, out, o, at)
	}
}

func (d *decoder) decodeBool(n *yaml.Node, out reflect.Value, o option, at position) {
	if n.ShortTag() == "!!bool" && n.Style&yaml.TaggedStyle == 0 {
		out.SetBool(strings.EqualFold(n.Value, "true"))
		return
	}
	write := "true or false"
	switch strings.ToLower(n.Value) {
	case "yes", "on", "y", "true", "1":
		write = "true"
	case "no", "off", "n", "false", "0":
		write = "false"
	}
	d.addBroken(at, o.at, "is %s — write %s, without quotes", kindOf(n), write)
}

func (d *decoder) decodeInt(n *yaml.Node, out reflect.Value, o option, at position) {
	if n.ShortTag() != "!!int" || !isDecimal(n.Value) {
		d.addBroken(at, o.at, "%s", notInteger(n, o.example))
		return
	}
	i, err := strconv.ParseInt(n.Value, 10, 64)
	switch {
	case err == nil && out.Kind() == reflect.Int && !out.OverflowInt(i):
		out.SetInt(i)
	case err == nil && out.Kind() == reflect.Uint32 && i >= 0 && !out.OverflowUint(uint64(i)):
		out.SetUint(uint64(i))
	default:
		d.addBroken(at, o.at, "%s is out of range — write for example %s", brief(n.Value), o.example)
	}
}

func notInteger(n *yaml.Node, example string) string {
	switch tag := n.ShortTag(); {
	case tag == "!!str" && isDecimal(n.Value):
		return fmt.Sprintf("is %s — write %s, without quotes", kindOf(n), n.Value)
	case len(n.Value) > 1 && n.Value[0] == '0' && isDecimal(strings.TrimLeft(n.Value, "0")):
		return fmt.Sprintf("%s is octal to some readers and decimal to others — write it without the 0 in front", n.Value)
	default:
		return fmt.Sprintf("is %s, but must be a whole number in decimal — write for example %s", kindOf(n), example)
	}
}

func (d *decoder) decodeText(n *yaml.Node, out reflect.Value, o option, at position) {
	_, plain := out.Interface().(string)
	switch tag := n.ShortTag(); {
	case tag == "!!str":
		out.SetString(n.Value)
	case tag == "!!int" && !plain && isDecimal(n.Value), tag == "!!float" && out.Type() == reflect.TypeFor[ratio]():
		out.SetString(n.Value)
	case tag == "!!int" && !plain:
		d.addBroken(at, o.at, "%s", notInteger(n, o.example))
	default:
		d.addBroken(at, o.at, "is %s, but must be text — write for example %s (quotes make text of anything)", kindOf(n), o.example)
	}
}

// shortForm is the option that may stand for all of a struct.
func shortForm(t reflect.Type) (reflect.StructField, bool) {
	for f := range t.Fields() {
		if f.Tag.Get("short") != "" {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

// optionsOf maps the options of a struct of file.go to its fields.
func optionsOf(t reflect.Type) map[string]reflect.StructField {
	fields := make(map[string]reflect.StructField, t.NumField())
	for f := range t.Fields() {
		fields[f.Tag.Get("yaml")] = f
	}
	return fields
}
