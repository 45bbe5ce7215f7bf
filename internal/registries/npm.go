package registries

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// npm reads npmrc(5): the user's file, the system's, the environment, each
// before the next; scoped registries of all of them; and asks npm where none
// names the registry for the rest.
func npm(ctx context.Context, s *search) error {
	files := []string{s.variable("npm_config_userconfig", true), s.variable("npm_config_globalconfig", true)}
	if files[0] == "" {
		files[0] = s.under(".npmrc")
	}
	registries := map[string]string{}
	if r := s.variable("npm_config_registry", true); r != "" {
		registries["registry"] = r
	}
	for _, file := range append(files, "/etc/npmrc", "/usr/local/etc/npmrc") {
		if err := s.readNPM(file, registries); err != nil {
			return err
		}
	}
	if registries["registry"] == "" {
		if err := s.askNPM(ctx, registries); err != nil {
			return err
		}
	}
	for key, registry := range registries {
		if key == "default" {
			continue
		}
		if err := s.add("npm's setting "+key, registry, true); err != nil {
			return err
		}
	}
	if registries["registry"] == "" {
		return s.add("npm's registry", registries["default"], false)
	}
	return nil
}

// readNPM adds the registries of a file that are not known from one before it.
func (s *search) readNPM(file string, registries map[string]string) error {
	text, err := s.read(file)
	if err != nil {
		return err
	}
	settings, err := parseINI(text, false)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for _, one := range settings {
		scoped := strings.HasPrefix(one.key, "@") && strings.HasSuffix(one.key, ":registry")
		if one.section == "" && (scoped || one.key == "registry") && registries[one.key] == "" {
			registries[one.key] = s.expand(one.value)
		}
	}
	return nil
}

// expand puts the environment's variables in the place of ${NAME}, alone, as npm does.
func (s *search) expand(text string) string {
	if !strings.Contains(text, "${") {
		return text
	}
	return os.Expand(text, func(name string) string { return s.variable(strings.TrimSuffix(name, "?"), false) })
}

// askNPM asks npm which registry it takes by itself, and where its own
// system-wide file is.
func (s *search) askNPM(ctx context.Context, registries map[string]string) error {
	out, err := s.ask(ctx, question{
		program: "npm", args: []string{"config", "list", "--json"}, own: []string{"NPM_CONFIG_"},
		extra: []string{"NPM_CONFIG_UPDATE_NOTIFIER=false", "NPM_CONFIG_LOGS_MAX=0"},
	})
	if err != nil {
		return err
	}
	var answer struct {
		Registry     string `json:"registry"`
		GlobalConfig string `json:"globalconfig"`
	}
	if json.Unmarshal(out, &answer) != nil || answer.Registry == "" {
		return errors.New("npm does not say which registry it uses")
	}
	if filepath.IsAbs(answer.GlobalConfig) {
		if err := s.readNPM(answer.GlobalConfig, registries); err != nil {
			return err
		}
	}
	registries["default"] = answer.Registry
	return nil
}
