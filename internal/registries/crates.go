package registries

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/BurntSushi/toml"
)

// cargoConfig is the part of cargo's configuration that says where crates are
// (The Cargo Book, "Configuration", source and registries).
type cargoConfig struct {
	Source map[string]struct {
		ReplaceWith string `toml:"replace-with"`
		Registry    string `toml:"registry"`
		Directory   string `toml:"directory"`
		Local       string `toml:"local-registry"`
	} `toml:"source"`
	Registries map[string]struct {
		Index string `toml:"index"`
	} `toml:"registries"`
}

// cratesIO is cargo's name for its default source, and maxReplaced bounds the
// chain of what replaces it.
const (
	cratesIO    = "crates-io"
	maxReplaced = 16
)

// crates opens what replaces cargo's default source, or that, and the
// registries that are configured beside it.
func crates(ctx context.Context, s *search) error {
	home := s.variable("CARGO_HOME", false)
	if home == "" {
		home = s.under(".cargo")
	}
	config, err := s.cargoConfig(home)
	if err != nil {
		return err
	}
	for name, r := range config.Registries {
		index := cmp.Or(s.variable("CARGO_REGISTRIES_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))+"_INDEX", false), r.Index)
		if index == "" {
			continue
		}
		if err := s.addIndex(home, "cargo's registry "+name, index); err != nil {
			return err
		}
	}
	return s.addDefaultSource(ctx, home, config)
}

func (s *search) cargoConfig(home string) (cargoConfig, error) {
	var config cargoConfig
	if home == "" {
		return config, nil
	}
	// The older name has the word where both are there.
	for _, name := range []string{"config", "config.toml"} {
		file := filepath.Join(home, name)
		text, err := s.read(file)
		if err != nil {
			return config, err
		}
		if text == nil {
			continue
		}
		if err := toml.Unmarshal(text, &config); err != nil {
			return config, fmt.Errorf("%s is no configuration of cargo's", file) // the error quotes it, and it may hold tokens
		}
		return config, nil
	}
	return config, nil
}

func (s *search) addDefaultSource(ctx context.Context, home string, config cargoConfig) error {
	name := cratesIO
	for range maxReplaced {
		source := config.Source[name]
		switch {
		case source.ReplaceWith != "":
			name = source.ReplaceWith
			continue
		case source.Directory != "" || source.Local != "":
			if len(s.found) == 0 {
				return errors.New("cargo takes crates from a folder on this host")
			}
			return nil
		case source.Registry != "":
			return s.addIndex(home, "cargo's source "+name, source.Registry)
		case config.Registries[name].Index != "":
			return nil // it is there
		}
		if name == cratesIO {
			return s.askCargo(ctx, home)
		}
		return fmt.Errorf("cargo's source %q is configured nowhere", name)
	}
	return errors.New("cargo's sources replace each other in a circle")
}

// addIndex opens the host of an index, and those that it sends to.
func (s *search) addIndex(home, where, index string) error {
	index = strings.TrimPrefix(strings.TrimPrefix(index, "sparse+"), "registry+")
	if strings.HasPrefix(index, "ssh://") || strings.HasPrefix(index, "file:") {
		return fmt.Errorf("%s is no URL of http or https", where)
	}
	if err := s.add(where, index, true); err != nil {
		return err
	}
	u, err := url.Parse(index)
	if err != nil {
		return fmt.Errorf("%s is no URL of http or https", where)
	}
	dirs, err := filepath.Glob(filepath.Join(s.Root, home, "registry/index", strings.ToLower(u.Hostname())+"-*", "config.json"))
	if err != nil {
		return err
	}
	for _, file := range dirs {
		if rel, err := filepath.Rel(s.Root, file); err == nil {
			if _, err := s.addDownloads("/"+rel, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// addDownloads opens the hosts that an index names, as cargo keeps it (The Cargo
// Book, "Registry Index", config.json).
func (s *search) addDownloads(file string, private bool) (bool, error) {
	text, err := s.read(file)
	if err != nil || text == nil {
		return false, err
	}
	var config struct {
		Download string `json:"dl"`
		API      string `json:"api"`
	}
	if err := json.Unmarshal(text, &config); err != nil || config.Download == "" {
		return false, fmt.Errorf("%s says nothing of downloads", file)
	}
	if err := s.add("the place of downloads in "+file, markers().ReplaceAllString(config.Download, "x"), private); err != nil {
		return false, err
	}
	if config.API != "" {
		return true, s.add("the API in "+file, config.API, private)
	}
	return true, nil
}

// markers are what stands for a crate in the place of downloads.
func markers() *regexp.Regexp { return regexp.MustCompile(`\{[a-z0-9-]+\}`) }

// indexDir is how cargo names the folder of an index: its host and a hash.
func indexDir() *regexp.Regexp {
	return regexp.MustCompile(`registry/index/(([a-z0-9.-]+)-[0-9a-f]{16})/`)
}

// askCargo makes cargo look for a crate without the network. Its log says in
// which folder the default index would be, in whose name is the host.
func (s *search) askCargo(ctx context.Context, home string) error {
	project, err := s.project()
	if err != nil {
		return fmt.Errorf("ask cargo: %w", err)
	}
	defer func() { _ = os.RemoveAll(project) }()
	out, err := s.ask(ctx, question{
		program: "cargo", args: []string{"fetch", "--offline"}, dir: project, both: true, own: []string{"RUSTUP_"},
		extra: []string{"CARGO_HOME=" + filepath.Join(project, "home"), "CARGO_LOG=cargo::sources::registry=trace"},
	})
	if err != nil {
		return err
	}
	found := indexDir().FindSubmatch(out)
	if found == nil {
		return errors.New("cargo does not say which index it uses")
	}
	if err := s.addHost("cargo's index", string(found[2]), 443, false); err != nil {
		return err
	}
	known, err := s.addDownloads(filepath.Join(home, "registry/index", string(found[1]), "config.json"), false)
	if err == nil && !known {
		err = errors.New("cargo knows only when it has fetched something where crates are downloaded from: run `cargo fetch` on this host in a project with a dependency")
	}
	return err
}

// project is a package with a dependency, in a folder of the user's.
func (s *search) project() (string, error) {
	dir, err := os.MkdirTemp("", "bield-cargo-")
	if err != nil {
		return "", err
	}
	files := map[string]string{
		"Cargo.toml": "[package]\nname = \"ask\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[dependencies]\nserde = \"1\"\n",
		"src/lib.rs": "", "home/.keep": "",
	}
	for name, text := range files {
		file := filepath.Join(dir, name)
		err = errors.Join(err, os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600))
	}
	if s.As != nil && err == nil {
		for _, name := range []string{"", "src", "home", "Cargo.toml", "src/lib.rs", "home/.keep"} {
			err = errors.Join(err, os.Lchown(filepath.Join(dir, name), int(s.As.UID), int(s.As.GID)))
		}
	}
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", err
	}
	return dir, nil
}
