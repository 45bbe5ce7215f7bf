package preflight

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bield/internal/spec"
	"bield/internal/state"
)

// fakeHost is a host whose files lie in a folder; a name that ends in "/" is a
// folder.
func fakeHost(t *testing.T, files map[string]string) Host {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		if strings.HasSuffix(name, "/") {
			must(t, os.MkdirAll(path, 0o755))
			continue
		}
		must(t, os.WriteFile(path, []byte(text), 0o644))
	}
	return Host{
		Root: root, Group: "bield", Run: state.Run{Dir: filepath.Join(root, "run/bield")}, Cache: state.Cache{Dir: filepath.Join(root, "cache")},
		Config: Config{Host: spec.DefaultHost()},
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// expect holds a result against its state and words of what it found and advises.
func expect(t *testing.T, r Result, want State, words ...string) {
	t.Helper()
	if r.State != want {
		t.Errorf("%s: %q, want %s", r.State, r.Found, want)
	}
	all := r.Found + "\n" + strings.Join(r.Do, "\n")
	for _, w := range words {
		if !strings.Contains(all, w) {
			t.Errorf("%q lacks %q", all, w)
		}
	}
	if (want == Fail || want == Warn) && len(r.Do) == 0 {
		t.Errorf("%q says not what to do", r.Found)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "needs root")
	}
}

func skip(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("BIELD_TEST_REQUIRE") == "1" {
		t.Fatal("required: " + reason)
	}
	t.Skip(reason)
}

func check(name string, look func(context.Context) []Result) Check { return Check{name, look} }

func TestRunKeepsOrderAndLimit(t *testing.T) {
	first := make(chan struct{})
	hung := make(chan struct{})
	t.Cleanup(func() { close(hung) })
	var names []string
	err := run(t.Context(), []Check{
		check("a", func(context.Context) []Result { <-first; return []Result{{Name: "a"}} }),
		check("b", func(context.Context) []Result { close(first); return []Result{{Name: "b1"}, {Name: "b2"}} }),
		check("heeds", func(ctx context.Context) []Result { <-ctx.Done(); return []Result{{Name: "heeded"}} }),
		check("hangs", func(context.Context) []Result { <-hung; return nil }),
		check("c", func(context.Context) []Result { return []Result{{Name: "c"}} }),
	}, 50*time.Millisecond, func(r Result) {
		names = append(names, r.Name)
		if r.Name == "hangs" {
			expect(t, r, Warn, "no answer within 50ms", "network file system")
		}
	})
	if got := strings.Join(names, " "); err != nil || got != "a b1 b2 heeded hangs c" {
		t.Errorf("%s, %v", got, err)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	hung := make(chan struct{})
	t.Cleanup(func() { close(hung) })
	ctx, cancel := context.WithCancel(t.Context())
	err := run(ctx, []Check{
		check("a", func(context.Context) []Result { return []Result{{Name: "a"}} }),
		check("hangs", func(context.Context) []Result { <-hung; return nil }),
	}, time.Hour, func(Result) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// TestChecksOfThisHost makes them all for real: each has a name of its own and,
// where something is to be done, says what.
func TestChecksOfThisHost(t *testing.T) {
	h := fakeHost(t, nil)
	h.Root, h.UID = "", os.Geteuid()
	h.KVM = func() (bool, string) { return false, "because" }
	h.Hypervisor = func(context.Context, spec.HypervisorKind) (string, error) { return "one without KVM", nil }
	h.Programs = func(context.Context) ([]Program, error) {
		return []Program{{Name: "x", Purpose: "y", Do: []string{"z"}}}, nil
	}
	h.Cgroups = func() Cgroups { return Cgroups{Found: "version 2"} }
	h.Daemon = func(context.Context) Daemon { return Daemon{} }
	seen := map[string]bool{}
	err := Run(t.Context(), h.Checks(), func(r Result) {
		t.Logf("%-7s %s: %s %q", r.State, r.Name, r.Found, r.Do)
		if seen[r.Name] || r.Name == "" || r.Found == "" {
			t.Errorf("%+v", r)
		}
		seen[r.Name] = true
		if r.State == Fail && len(r.Do) == 0 {
			t.Errorf("%s says not what to do", r.Name)
		}
	})
	if err != nil || len(seen) != len(h.Checks()) {
		t.Errorf("%d checks, %v", len(seen), err)
	}
}

func TestConfiguration(t *testing.T) {
	h := fakeHost(t, nil)
	expect(t, h.configuration(), OK, "no file yet")
	h.Config.File = "/etc/bield/bield.yaml"
	h.Config.Host.VMs = []spec.VM{{Name: "one"}}
	expect(t, h.configuration(), OK, "/etc/bield/bield.yaml declares 1 VM")
	h.Config.Err = errors.New("x:1:2: bad\nx:3:4: worse")
	expect(t, h.configuration(), Fail, "/etc/bield/bield.yaml is no good", "worse", "bield config check")
}
