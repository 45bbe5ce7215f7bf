package config

import (
	"bytes"
	"encoding/json"
	"reflect"

	"github.com/invopop/jsonschema"
)

// Schema is the JSON Schema (draft 2020-12) of a bield.yaml, indented, for
// editors. It knows names, types and single values; rules between options are
// Load's alone.
func Schema() ([]byte, error) {
	r := jsonschema.Reflector{
		FieldNameTag:               "yaml",
		RequiredFromJSONSchemaTags: true,
		Anonymous:                  true,
		ExpandedStruct:             true,
		Namer:                      schemaName,
	}
	s := r.Reflect(&hostFile{})
	s.Title = "bield.yaml"
	s.Description = "The VMs of a host of bield."
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(s); err != nil {
		return nil, err
	}
	// The encoder applies its settings to the outermost value only.
	var indented bytes.Buffer
	err := json.Indent(&indented, out.Bytes(), "", "  ")
	return indented.Bytes(), err
}

func schemaName(t reflect.Type) string {
	names := map[reflect.Type]string{
		reflect.TypeFor[hostFile]():  "host",
		reflect.TypeFor[vmFile]():    "vm",
		reflect.TypeFor[shareFile](): "share",
		reflect.TypeFor[userFile]():  "user",
		reflect.TypeFor[imageFile](): "image",

		reflect.TypeFor[egressFile](): "egress",
	}
	return names[t]
}

// JSONSchemaExtend holds the names of VMs to their rule.
func (hostFile) JSONSchemaExtend(s *jsonschema.Schema) {
	if vms, ok := s.Properties.Get("vms"); ok {
		vms.PropertyNames = &jsonschema.Schema{Pattern: `^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`}
	}
}

// JSONSchemaExtend lets a mode stand for all of it.
func (egressFile) JSONSchemaExtend(s *jsonschema.Schema) {
	mode, ok := s.Properties.Get("mode")
	if !ok {
		return
	}
	options := *s
	*s = jsonschema.Schema{OneOf: []*jsonschema.Schema{{Type: "string", Enum: mode.Enum}, &options}}
}
