package registries

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// golang reads GOPROXY and GOSUMDB: of the environment, of the user's file, and
// else of the go command, which has defaults of its own. What is fetched from
// code hosts directly ("direct", GOPRIVATE) needs those hosts' presets.
func golang(ctx context.Context, s *search) error {
	own, err := s.goSettings()
	if err != nil {
		return err
	}
	asked, err := s.askGo(ctx)
	if err != nil && (own["GOPROXY"] == "" || !errors.Is(err, errNotInstalled)) {
		return err
	}
	proxy, explicit := own["GOPROXY"], own["GOPROXY"] != ""
	if !explicit {
		proxy = asked["GOPROXY"]
	}
	if err := s.addProxies(proxy, explicit && proxy != asked["default"]); err != nil {
		return err
	}
	if own["GOSUMDB"] != "" {
		return s.addSumDB(own["GOSUMDB"], true)
	}
	return s.addSumDB(asked["GOSUMDB"], false)
}

// goSettings are those that the user made.
func (s *search) goSettings() (map[string]string, error) {
	values := map[string]string{}
	file := s.variable("GOENV", false)
	if file == "" {
		file = s.configHome("go/env")
	}
	if file != "off" {
		text, err := s.read(file)
		if err != nil {
			return nil, err
		}
		for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
			if key, value, ok := strings.Cut(lines.Text(), "="); ok {
				values[strings.TrimSpace(key)] = strings.TrimSpace(value)
			}
		}
	}
	for _, key := range []string{"GOPROXY", "GOSUMDB"} {
		if value := s.variable(key, false); value != "" {
			values[key] = value
		}
	}
	return values, nil
}

func (s *search) askGo(ctx context.Context) (map[string]string, error) {
	out, err := s.ask(ctx, question{
		program: "go", args: []string{"env", "-json", "GOPROXY", "GOSUMDB"},
		// Without the user's settings: those are known. Nothing may be downloaded.
		extra: []string{"GOENV=off", "GOTOOLCHAIN=local", "GO111MODULE=off"},
	})
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	if err := json.Unmarshal(out, &values); err != nil {
		return nil, fmt.Errorf("go does not say which proxy it uses: %w", err)
	}
	values["default"] = values["GOPROXY"]
	return values, nil
}

// addProxies reads GOPROXY (https://go.dev/ref/mod#environment-variables): URLs,
// "direct" and "off", parted by commas or bars.
func (s *search) addProxies(list string, private bool) error {
	direct := false
	for _, one := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == '|' }) {
		switch one = strings.TrimSpace(one); {
		case one == "off":
			if len(s.found) == 0 {
				return errors.New("GOPROXY is off: go fetches nothing on this host")
			}
			return nil
		case one == "direct":
			direct = true
		case one == "" || strings.HasPrefix(one, "file:"):
		default:
			if err := s.add("GOPROXY", one, private); err != nil {
				return err
			}
		}
	}
	if direct && len(s.found) == 0 {
		return errors.New("GOPROXY is direct: modules come from the hosts of their code: use their presets, such as github")
	}
	return nil
}

// addSumDB reads GOSUMDB: a name, or a name with its key, and at times a URL.
func (s *search) addSumDB(value string, private bool) error {
	fields := strings.Fields(value)
	switch {
	case len(fields) == 0 || fields[0] == "off":
		return nil
	case len(fields) > 1:
		return s.add("GOSUMDB", fields[1], private)
	}
	name, _, keyed := strings.Cut(fields[0], "+")
	return s.addHost("GOSUMDB", strings.SplitN(name, "/", 2)[0], 443, private && keyed)
}
