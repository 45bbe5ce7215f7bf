package registries

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"bield/internal/spec"
)

// machine is a host with these files, whose PATH has these scripts alone.
func machine(t *testing.T, files, programs map[string]string, environ ...string) Host {
	t.Helper()
	root, bin := t.TempDir(), t.TempDir()
	write := func(path, text string, mode os.FileMode) {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range files {
		write(filepath.Join(root, name), text, 0o644)
	}
	// Nothing of this machine's own is found before them.
	for _, name := range []string{"npm", "python3", "go", "cargo"} {
		text, there := programs[name]
		if !there {
			text = "exit 127"
		}
		write(filepath.Join(bin, name), "#!/bin/sh\n"+text+"\n", 0o755)
	}
	return Host{Root: root, Home: "/home/ada", Environ: append(environ, "PATH="+bin, "LD_PRELOAD=/nonexistent.so")}
}

// show is the answer in a line: "!" marks what may be private.
func show(a Answer) string {
	var all []string
	for _, t := range a.Targets {
		all = append(all, t.String()+map[bool]string{true: "!"}[t.Private])
	}
	return strings.Join(all, " ")
}

const (
	npmSays = `echo '{"registry": "https://registry.example.org/", "globalconfig": "/opt/etc/npmrc"}'`
	pipSays = `echo '{"simple": "https://index.example.org/simple", "files": "files.example.org"}'`
	goSays  = `echo '{"GOPROXY": "https://proxy.example.org,direct", "GOSUMDB": "sum.example.org"}'`
	sources = "Types: deb\nURIs: http://deb.corp.example:3142/debian\nSuites: bookworm\nComponents: main\n"
	release = "ID=debian\nVERSION_CODENAME=bookworm\n"
)

func TestLookup(t *testing.T) {
	type texts = map[string]string
	tests := []struct {
		name, preset    string
		files, programs texts
		environ         []string
		want            string // or a part of the error, behind "error: "
	}{
		{"asked", "npm", nil, texts{"npm": npmSays}, nil, "registry.example.org:443"},
		{"user", "npm", texts{"home/ada/.npmrc": "; c\nregistry = \"http://npm.corp.example:4873/all/\"\n//npm.corp.example/:_authToken=secret\n"}, nil, nil, "npm.corp.example:4873!"},
		{"user before system", "npm", texts{"home/ada/.npmrc": "registry=https://a.corp.example", "etc/npmrc": "registry=https://b.corp.example"}, nil, nil, "a.corp.example:443!"},
		{"environment before all", "npm", texts{"home/ada/.npmrc": "registry=https://a.corp.example"}, nil, []string{"NPM_CONFIG_REGISTRY=https://c.corp.example"}, "c.corp.example:443!"},
		{"variables", "npm", texts{"home/ada/.npmrc": "registry=https://${MIRROR}/npm"}, nil, []string{"MIRROR=d.corp.example"}, "d.corp.example:443!"},
		{"scope beside the default", "npm", texts{"home/ada/.npmrc": "@corp:registry=https://own.corp.example"}, texts{"npm": npmSays}, nil, "own.corp.example:443! registry.example.org:443"},
		{"npm's own system file", "npm", texts{"opt/etc/npmrc": "registry=https://e.corp.example"}, texts{"npm": npmSays}, nil, "e.corp.example:443!"},
		{"other file", "npm", texts{"srv/rc": "registry=https://f.corp.example"}, nil, []string{"npm_config_userconfig=/srv/rc"}, "f.corp.example:443!"},
		{"an address", "npm", texts{"home/ada/.npmrc": "registry=http://10.0.0.5:4873"}, nil, nil, "error: put 10.0.0.5:4873 into `allow`"},
		{"no URL", "npm", texts{"home/ada/.npmrc": "registry=user:secret"}, nil, nil, "error: npm's setting registry is no URL"},
		{"a failing npm", "npm", nil, texts{"npm": "exit 3"}, nil, "error: ask npm: exit status 3"},
		{"a talking npm", "npm", nil, texts{"npm": "yes"}, nil, "error: npm prints more than an answer"},
		{"an npm that says nothing", "npm", nil, texts{"npm": "echo {}"}, nil, "error: npm does not say which registry it uses"},

		{"asked", "pypi", nil, texts{"python3": pipSays}, nil, "files.example.org:443 index.example.org:443"},
		{"user", "pypi", texts{"home/ada/.config/pip/pip.conf": "[global]\nindex-url: https://me:pw@py.corp.example/simple\n"}, nil, nil, "py.corp.example:443!"},
		{"later files", "pypi", texts{"etc/pip.conf": "[global]\nindex-url=https://a.corp.example", "home/ada/.pip/pip.conf": "[global]\nindex_url=https://b.corp.example\n[install]\nindex-url=https://c.corp.example"}, nil, nil, "c.corp.example:443!"},
		{"extra ones", "pypi", texts{"etc/pip.conf": "[global]\nextra-index-url =\n    https://a.corp.example/s\n    https://b.corp.example:8443/s\n"}, texts{"python3": pipSays}, nil, "a.corp.example:443! b.corp.example:8443! files.example.org:443 index.example.org:443"},
		{"environment", "pypi", texts{"etc/pip.conf": "[global]\nindex-url=https://a.corp.example"}, nil, []string{"PIP_INDEX_URL=https://d.corp.example/simple"}, "d.corp.example:443!"},
		{"the default by name", "pypi", nil, texts{"python3": pipSays}, []string{"PIP_INDEX_URL=https://INDEX.example.org/simple/"}, "files.example.org:443 index.example.org:443"},
		{"files off", "pypi", texts{"etc/pip.conf": "[global]\nindex-url=https://a.corp.example"}, texts{"python3": pipSays}, []string{"PIP_CONFIG_FILE=/dev/null"}, "files.example.org:443 index.example.org:443"},
		{"uv", "pypi", nil, texts{"python3": pipSays}, []string{"UV_INDEX=own=https://u.corp.example/simple"}, "files.example.org:443 index.example.org:443 u.corp.example:443!"},
		{"no pip", "pypi", nil, texts{"python3": "exit 1"}, nil, "error: pip does not say which index it uses"},

		{"asked", "go", nil, texts{"go": goSays}, nil, "proxy.example.org:443 sum.example.org:443"},
		{"environment", "go", nil, texts{"go": goSays}, []string{"GOPROXY=https://go.corp.example|direct"}, "go.corp.example:443! sum.example.org:443"},
		{"file", "go", texts{"home/ada/.config/go/env": "GOPROXY=http://go.corp.example:3000,https://b.corp.example,off\nGOSUMDB=off\n"}, texts{"go": goSays}, nil, "b.corp.example:443! go.corp.example:3000!"},
		{"the sum's URL", "go", nil, texts{"go": goSays}, []string{"GOSUMDB=sum.corp.example+12+key https://s.corp.example/sum"}, "proxy.example.org:443 s.corp.example:443!"},
		{"the sum's key", "go", nil, texts{"go": goSays}, []string{"GOSUMDB=sum.corp.example+12+key"}, "proxy.example.org:443 sum.corp.example:443!"},
		{"direct", "go", nil, texts{"go": goSays}, []string{"GOPROXY=direct"}, "error: GOPROXY is direct"},
		{"off", "go", nil, texts{"go": goSays}, []string{"GOPROXY=off"}, "error: GOPROXY is off"},
		{"the default by name", "go", nil, texts{"go": goSays}, []string{"GOPROXY=https://proxy.example.org,direct"}, "proxy.example.org:443 sum.example.org:443"},

		{"sources", "debian", texts{"etc/os-release": release, "etc/apt/sources.list.d/debian.sources": sources, "etc/apt/sources.list.d/other.list": "deb https://third.example.test x main\n"}, nil, nil, "deb.corp.example:3142!"},
		{"none", "debian", texts{"etc/os-release": release}, nil, nil, "error: no source of the distribution's own"},
		{"another distribution", "debian", nil, nil, nil, "error: os-release"},

		{"replaced", "crates", texts{"home/ada/.cargo/config.toml": "[source.crates-io]\nreplace-with='corp'\n[source.corp]\nregistry='sparse+https://crates.corp.example/index/'\n"}, nil, nil, "crates.corp.example:443!"},
		{"replaced twice, by a registry", "crates", texts{"home/ada/.cargo/config": "[source.crates-io]\nreplace-with='a'\n[source.a]\nreplace-with='b'\n[registries.b]\nindex='https://git.corp.example/index'\n"}, nil, nil, "git.corp.example:443!"},
		{"downloads", "crates", texts{
			"home/ada/.cargo/config.toml": "[source.crates-io]\nreplace-with='corp'\n[source.corp]\nregistry='sparse+https://crates.corp.example/index/'\n",
			"home/ada/.cargo/registry/index/crates.corp.example-0123456789abcdef/config.json": `{"dl":"https://dl.corp.example/{crate}/{version}","api":"https://api.corp.example"}`,
			"home/ada/.cargo/registry/index/other.example-0123456789abcdef/config.json":       `{"dl":"https://dl.other.example"}`,
		}, nil, nil, "api.corp.example:443! crates.corp.example:443! dl.corp.example:443!"},
		{"asked", "crates", texts{"home/ada/.cargo/registry/index/index.example.org-0123456789abcdef/config.json": `{"dl":"https://dl.example.org/crates","api":"https://www.example.org"}`},
			texts{"cargo": `echo "cache missing cache_path=\"$CARGO_HOME/registry/index/index.example.org-0123456789abcdef/.cache\"" >&2; exit 101`}, nil, "dl.example.org:443 index.example.org:443 www.example.org:443"},
		{"never fetched", "crates", nil, texts{"cargo": `echo registry/index/index.example.org-0123456789abcdef/.cache >&2`}, nil, "error: run `cargo fetch`"},
		{"says nothing", "crates", nil, texts{"cargo": "true"}, nil, "error: cargo does not say which index it uses"},
		{"circle", "crates", texts{"home/ada/.cargo/config.toml": "[source.crates-io]\nreplace-with='a'\n[source.a]\nreplace-with='crates-io'\n"}, nil, nil, "error: replace each other in a circle"},
		{"vendored", "crates", texts{"home/ada/.cargo/config.toml": "[source.crates-io]\nreplace-with='a'\n[source.a]\ndirectory='/srv/vendor'\n"}, nil, nil, "error: from a folder on this host"},
		{"no TOML", "crates", texts{"home/ada/.cargo/config.toml": "secret"}, nil, nil, "error: /home/ada/.cargo/config.toml is no configuration of cargo's"},
		{"another home", "crates", texts{"srv/cargo/config.toml": "[source.crates-io]\nreplace-with='a'\n[source.a]\nregistry='https://a.corp.example'\n"}, nil, []string{"CARGO_HOME=/srv/cargo"}, "a.corp.example:443!"},

		{"misspelt", "nmp", nil, nil, nil, "error: did you mean npm?"},
		{"unheard of", "zzzzzzz", nil, nil, nil, `error: "zzzzzzz": no such preset: there are anthropic, `},
		{"a code host", "gitlab", nil, nil, nil, "altssh.gitlab.com:443 gitlab.com gitlab.com:22"},
	}
	for _, tt := range tests {
		t.Run(tt.preset+" "+tt.name, func(t *testing.T) {
			got, err := machine(t, tt.files, tt.programs, tt.environ...).Lookup(t.Context(), tt.preset)
			if want, fails := strings.CutPrefix(tt.want, "error: "); fails {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Fatalf("%q, %v; want an error with %q", show(got), err, want)
				}
				if strings.Contains(err.Error(), "secret") {
					t.Errorf("the error quotes a secret: %v", err)
				}
				return
			}
			if err != nil || show(got) != tt.want {
				t.Fatalf("got %q, %v, want %q", show(got), err, tt.want)
			}
			for _, target := range got.Targets {
				if target.Preset != tt.preset || spec.TargetProblem(target) != "" {
					t.Errorf("%+v: %s", target, spec.TargetProblem(target))
				}
			}
		})
	}
}

// TestNotInstalled: a client that is not there needs something configured.
func TestNotInstalled(t *testing.T) {
	for program, preset := range map[string]string{"npm": "npm", "python3": "pypi", "go": "go", "cargo": "crates"} {
		s := &search{Host: Host{Root: t.TempDir(), Home: "/nowhere"}}
		if _, err := s.find("bield-" + program); !errors.Is(err, errNotInstalled) {
			t.Errorf("%s: %v", preset, err)
		}
	}
	files := map[string]string{"home/ada/.config/go/env": "GOPROXY=https://go.corp.example\nGOSUMDB=off\n"}
	s := &search{Host: machine(t, files, nil)}
	s.Environ = []string{"PATH=/nonexistent"}
	own, err := s.goSettings()
	if err != nil || own["GOPROXY"] != "https://go.corp.example" {
		t.Errorf("%v, %v", own, err)
	}
}

// TestAskedAlone: clients get no terminal, no project and none of the
// variables that would make them load something.
func TestAskedAlone(t *testing.T) {
	h := machine(t, nil, map[string]string{"npm": `
[ "$PWD" = / ] && [ -z "$LD_PRELOAD$NODE_OPTIONS$HTTP_PROXY" ] && [ "$HOME" = /home/ada ] && [ "$npm_config_x" = y ] || exit 9
read line && exit 8
(: < /dev/tty) 2>/dev/null && exit 7
` + npmSays}, "NODE_OPTIONS=--require=/x.js", "npm_config_x=y")
	if got, err := h.Lookup(t.Context(), "npm"); err != nil || show(got) != "registry.example.org:443" {
		t.Errorf("%q, %v", show(got), err)
	}
}

// TestHanging: a client that does not answer, and leaves a child behind.
func TestHanging(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as a client may")
	}
	h := machine(t, nil, map[string]string{"npm": "sleep 300 & wait"})
	begun := time.Now()
	_, err := h.Lookup(t.Context(), "npm")
	if err == nil || !strings.Contains(err.Error(), "does not answer") || time.Since(begun) > askTimeout+5*time.Second {
		t.Errorf("%v after %s", err, time.Since(begun))
	}
}

// TestAsAnother: root's bield runs clients as who called sudo.
func TestAsAnother(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("BIELD_TEST_REQUIRE") == "1" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	bin, err := os.MkdirTemp("/tmp", "bield-registries-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(bin)
	script := "#!/bin/sh\n[ $(id -u):$(id -g):$(id -G) = 12345:12346:12346 ] || exit 9\n"
	err = errors.Join(os.Chmod(bin, 0o755),
		os.WriteFile(filepath.Join(bin, "npm"), []byte(script+npmSays), 0o755),
		os.WriteFile(filepath.Join(bin, "cargo"), []byte(script+"touch \"$CARGO_HOME/mine\" && [ -r src/lib.rs ] && echo registry/index/index.example.org-0123456789abcdef/x"), 0o755))
	if err != nil {
		t.Fatal(err)
	}
	h := Host{Root: t.TempDir(), Home: "/home/ada", Environ: []string{"PATH=" + bin}, As: &spec.ID{UID: 12345, GID: 12346}}
	if got, err := h.Lookup(t.Context(), "npm"); err != nil || show(got) != "registry.example.org:443" {
		t.Errorf("%q, %v", show(got), err)
	}
	if _, err := h.Lookup(t.Context(), "crates"); err == nil || !strings.Contains(err.Error(), "run `cargo fetch`") {
		t.Errorf("%v", err)
	}
}

func TestOddFiles(t *testing.T) {
	h := machine(t, map[string]string{"home/ada/.npmrc": "x", "home/ada/.cargo": "no folder"}, nil)
	if err := os.Truncate(filepath.Join(h.Root, "home/ada/.npmrc"), maxFile+1); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Lookup(t.Context(), "npm"); err == nil || !strings.Contains(err.Error(), "larger than a configuration") {
		t.Errorf("%v", err)
	}
	var many strings.Builder
	for i := range maxHosts + 1 {
		fmt.Fprintf(&many, "@s%d:registry=https://r%d.example\n", i, i)
	}
	h = machine(t, map[string]string{"home/ada/.npmrc": many.String() + "registry=https://r.example"}, nil)
	if _, err := h.Lookup(t.Context(), "npm"); err == nil || !strings.Contains(err.Error(), "over 64 registries") {
		t.Errorf("%v", err)
	}
}

// TestFiles: what decides an answer is told, there or not.
func TestFiles(t *testing.T) {
	got, err := machine(t, map[string]string{"home/ada/.npmrc": "registry=https://a.corp.example"}, nil).Lookup(t.Context(), "npm")
	if err != nil || !slices.Contains(got.Files, "/home/ada/.npmrc") || !slices.Contains(got.Files, "/etc/npmrc") {
		t.Errorf("%v, %v", got.Files, err)
	}
}

// TestData holds presets.yaml to its form.
func TestData(t *testing.T) {
	all, err := parsePresets(presetsYAML)
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range all {
		if _, taken := clients()[name]; taken || strings.ContainsAny(name, ".:/*") {
			t.Errorf("%s can be no preset", name)
		}
		if !strings.HasPrefix(p.Documented, "https://") || len(p.Names) == 0 {
			t.Errorf("%s: %+v", name, p)
		}
		for _, text := range p.Names {
			target, err := spec.ParseTarget(text)
			if err != nil || target.Prefix.IsValid() || target.String() != text {
				t.Errorf("%s: %q: %v", name, text, err)
			}
			// Registries are read from clients' configuration.
			for _, word := range []string{"npm", "registry", "pypi", "proxy", "crates", "debian", "ghcr", "docker", "pkg", "maven"} {
				if strings.Contains(text, word) {
					t.Errorf("%s: %q looks like a registry", name, text)
				}
			}
		}
		if len(data()[name]) != len(p.Names) {
			t.Errorf("%s has lost names", name)
		}
	}
	for _, name := range []string{"anthropic", "openai", "google", "mistral", "openrouter", "github", "gitlab", "bitbucket", "codeberg", "npm", "pypi", "go", "debian", "crates"} {
		if !slices.Contains(Presets(), name) {
			t.Errorf("no preset %s", name)
		}
	}
}

// TestRealClients asks those of this machine with nothing configured.
func TestRealClients(t *testing.T) {
	for preset, program := range map[string]string{"npm": "npm", "pypi": "python3", "go": "go", "crates": "cargo"} {
		t.Run(preset, func(t *testing.T) {
			h := Host{Root: t.TempDir(), Home: t.TempDir(), Environ: os.Environ()}
			h.Environ = slices.DeleteFunc(h.Environ, func(line string) bool {
				name, _, _ := strings.Cut(line, "=")
				return slices.ContainsFunc([]string{"NPM_CONFIG", "PIP_", "UV_", "GO", "CARGO"}, func(p string) bool { return strings.HasPrefix(strings.ToUpper(name), p) })
			})
			if home, err := os.UserHomeDir(); err == nil && os.Getenv("RUSTUP_HOME") == "" {
				h.Environ = append(h.Environ, "RUSTUP_HOME="+filepath.Join(home, ".rustup"))
			}
			if _, err := (&search{Host: h}).find(program); err != nil {
				t.Skip(err)
			}
			got, err := h.Lookup(t.Context(), preset)
			if preset == "crates" {
				if err == nil || !strings.Contains(err.Error(), "run `cargo fetch`") && !strings.Contains(err.Error(), "exit status") {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil && preset == "pypi" && strings.Contains(err.Error(), "does not say") {
				t.Skip("python3 without pip")
			}
			if err != nil || len(got.Targets) == 0 {
				t.Fatalf("%q, %v", show(got), err)
			}
			for _, target := range got.Targets {
				if target.Private {
					t.Errorf("%s is private though nothing is configured", target)
				}
			}
		})
	}
}

func FuzzINI(f *testing.F) {
	f.Add([]byte("[global]\nindex-url = https://a.example\nextra-index-url:\n  b\n  c\n"), true)
	f.Add([]byte("@a:registry=https://a.example\n;c\nregistry\n"), false)
	f.Fuzz(func(t *testing.T, text []byte, pip bool) {
		settings, err := parseINI(text, pip)
		if err != nil && settings != nil {
			t.Error("settings beside an error")
		}
		for _, one := range settings {
			s := &search{}
			if s.add("x", one.value, true) == nil && spec.TargetProblem(s.found[0]) != "" {
				t.Errorf("%q becomes %+v", one.value, s.found[0])
			}
		}
	})
}
