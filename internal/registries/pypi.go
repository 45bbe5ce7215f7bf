package registries

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
)

// pypi reads pip's configuration in the order that pip gives it: the system's
// files, the user's, PIP_CONFIG_FILE, the environment, where the last to name
// an index has the word. What uv's variables name is added. Files lie on another
// host than pip's default index, which only pip knows.
func pypi(ctx context.Context, s *search) error {
	index, extra, err := s.pipSettings()
	if err != nil {
		return err
	}
	for _, name := range []string{"UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL"} {
		for _, word := range strings.Fields(s.variable(name, false)) {
			// NAME=URL names an index.
			if before, after, named := strings.Cut(word, "="); named && !strings.ContainsAny(before, ":/") {
				word = after
			}
			extra = append(extra, word)
		}
	}
	for _, one := range extra {
		if err := s.add("pip's extra-index-url", one, true); err != nil {
			return err
		}
	}
	own, err := s.askPip(ctx)
	switch {
	case index == "" && err != nil:
		return err
	case index == "" || err == nil && sameHost(index, own.Simple):
		if err := s.add("pip's default index", own.Simple, false); err != nil {
			return err
		}
		return s.addHost("pip's host of files", own.Files, 443, false)
	}
	return s.add("pip's index-url", index, true)
}

func sameHost(a, b string) bool {
	u, err := url.Parse(a)
	v, err2 := url.Parse(b)
	return err == nil && err2 == nil && u.Host != "" && strings.EqualFold(u.Host, v.Host)
}

func (s *search) pipSettings() (index string, extra []string, err error) {
	values := map[string]string{}
	for _, file := range s.pipFiles() {
		text, err := s.read(file)
		if err != nil {
			return "", nil, err
		}
		settings, err := parseINI(text, true)
		if err != nil {
			return "", nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, section := range []string{"global", "install"} {
			for _, one := range settings {
				if key := strings.ReplaceAll(strings.ToLower(one.key), "_", "-"); one.section == section {
					values[key] = one.value
				}
			}
		}
	}
	for key, name := range map[string]string{"index-url": "PIP_INDEX_URL", "extra-index-url": "PIP_EXTRA_INDEX_URL"} {
		if value := s.variable(name, false); value != "" {
			values[key] = value
		}
	}
	return strings.TrimSpace(values["index-url"]), strings.Fields(values["extra-index-url"]), nil
}

// pipFiles are those of pip's documentation, "Configuration Files".
func (s *search) pipFiles() []string {
	named := s.variable("PIP_CONFIG_FILE", false)
	if named == "/dev/null" {
		return nil
	}
	dirs := filepath.SplitList(s.variable("XDG_CONFIG_DIRS", false))
	if len(dirs) == 0 {
		dirs = []string{"/etc/xdg"}
	}
	var files []string
	for _, dir := range dirs {
		if filepath.IsAbs(dir) {
			files = append(files, filepath.Join(dir, "pip/pip.conf"))
		}
	}
	return append(files, "/etc/pip.conf", s.under(".pip/pip.conf"), s.configHome("pip/pip.conf"), named)
}

// pipIndex is what pip has compiled in.
type pipIndex struct {
	Simple string `json:"simple"`
	Files  string `json:"files"`
}

// askPip reads pip's own constant, which none of its commands prints.
func (s *search) askPip(ctx context.Context) (pipIndex, error) {
	const program = "import json\nfrom pip._internal.models.index import PyPI as p\n" +
		"print(json.dumps({'simple': p.simple_url, 'files': p.file_storage_domain}))"
	out, err := s.ask(ctx, question{program: "python3", args: []string{"-I", "-c", program}, own: []string{"PYENV_"}})
	if errors.Is(err, errNotInstalled) {
		return pipIndex{}, fmt.Errorf("pip %w", errNotInstalled)
	}
	var own pipIndex
	if err == nil {
		err = json.Unmarshal(out, &own)
	}
	if err != nil {
		return pipIndex{}, fmt.Errorf("pip does not say which index it uses (%w)", err)
	}
	return own, nil
}
