package registries

import (
	_ "embed" // presets.yaml
	"fmt"

	"go.yaml.in/yaml/v4"

	"bield/internal/spec"
)

//go:embed presets.yaml
var presetsYAML []byte

// written is a preset of presets.yaml.
type written struct {
	Documented string   `yaml:"documented"`
	Names      []string `yaml:"names"`
}

// parsePresets reads the form of presets.yaml.
func parsePresets(text []byte) (map[string]written, error) {
	var all map[string]written
	if err := yaml.Load(text, &all, yaml.WithKnownFields()); err != nil {
		return nil, fmt.Errorf("presets.yaml: %w", err)
	}
	return all, nil
}

// data are the presets of presets.yaml. That it can be read is tested.
func data() map[string][]spec.Target {
	all, err := parsePresets(presetsYAML)
	if err != nil {
		return nil
	}
	presets := map[string][]spec.Target{}
	for name, preset := range all {
		for _, text := range preset.Names {
			if target, err := spec.ParseTarget(text); err == nil {
				presets[name] = append(presets[name], target)
			}
		}
	}
	return presets
}
