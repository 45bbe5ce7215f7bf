package packaging

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden")

// built is the folder that TestMain has built the programs in.
var built string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if built, err = os.MkdirTemp("", "packaging-"); err != nil {
			fmt.Println("FAIL:", err)
			return 1
		}
		defer os.RemoveAll(built)
		if _, err := exec.LookPath("make"); err == nil {
			if out, err := tree("make", "build", "BIN="+built, "VERSION=v1.2.3-4-gabcdef").CombinedOutput(); err != nil {
				fmt.Printf("FAIL: make build: %v: %s\n", err, out)
				return 1
			}
		}
		return m.Run()
	}())
}

// tree is a command in the top folder, without what another make has set.
func tree(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "MAKE") || strings.HasPrefix(v, "MFLAGS=")
	})
	return cmd
}

// dependOnTree lets `go test` take no result of an older tree from its cache:
// it notes which files a test has looked at.
func dependOnTree(t *testing.T) {
	t.Helper()
	for _, top := range []string{"cmd", "docs", "examples", "internal", "packaging", "Makefile", "README.md", "LICENSE", "go.mod"} {
		err := filepath.WalkDir(filepath.Join("..", "..", top), func(path string, _ fs.DirEntry, err error) error {
			if err == nil {
				_, err = os.Stat(path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err == nil {
			continue
		}
		reason := "there is no " + program + ": `make testdeps` gets it"
		if os.Getenv("BIELD_TEST_REQUIRE") == "1" {
			t.Fatal("required: " + reason)
		}
		t.Skip(reason)
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := tree(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// makeTarget runs a target of the Makefile with the programs that are built.
func makeTarget(t *testing.T, target string, variables ...string) {
	t.Helper()
	need(t, "make")
	dependOnTree(t)
	run(t, "make", append([]string{target, "BIN=" + built, "VERSION=v1.2.3-4-gabcdef"}, variables...)...)
}

// files lists the files below root with their modes.
func files(t *testing.T, root string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		list = append(list, fmt.Sprintf("%v %s", info.Mode(), strings.TrimPrefix(path, root)))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// otherThanVerbs leaves out the pages of verbs, which cmd/bield's tests hold to
// be complete.
func otherThanVerbs(list []string) string {
	list = slices.DeleteFunc(list, func(line string) bool { return strings.Contains(line, "/man1/bield-") })
	return strings.Join(list, "\n") + "\n"
}

func TestInstall(t *testing.T) {
	root := t.TempDir()
	makeTarget(t, "install", "DESTDIR="+root, "PREFIX=/usr")
	got := otherThanVerbs(files(t, root))
	if *update {
		if err := os.WriteFile("testdata/files.golden", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/files.golden")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("installed is (-update, if it is right):\n%s\nwant:\n%s", got, want)
	}
	for _, line := range files(t, root) {
		_, name, _ := strings.Cut(line, " ")
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(name, "/systemd/") && strings.Contains(string(text), "@BIN") || len(text) == 0 {
			t.Errorf("%s is empty or not filled in:\n%s", name, text)
		}
	}
	// The CLI finds its daemon, and the daemon bield-init, where they are now.
	out := run(t, filepath.Join(root, "usr/libexec/bield/bieldd"), "--version")
	if out != "bieldd v1.2.3-4-gabcdef\n" {
		t.Errorf("bieldd says %q", out)
	}
}

func TestUninstall(t *testing.T) {
	root := t.TempDir()
	variables := []string{"DESTDIR=" + root, "PREFIX=/opt/bield"}
	makeTarget(t, "install", variables...)
	settings, other := filepath.Join(root, "etc/default/bieldd"), filepath.Join(root, "opt/bield/share/doc/bield/notes")
	for _, path := range []string{settings, other} {
		if err := os.WriteFile(path, []byte("the administrator's\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	makeTarget(t, "install", variables...)
	makeTarget(t, "uninstall", variables...)
	if left := files(t, root); len(left) != 2 {
		t.Errorf("left: %v", left)
	}
	text, err := os.ReadFile(settings)
	if err != nil || string(text) != "the administrator's\n" {
		t.Errorf("the settings are now %q %v", text, err)
	}
	if _, err := os.Stat(filepath.Join(root, "opt/bield/libexec/bield")); err == nil {
		t.Error("an empty folder is left")
	}
}

// tooNew is what systemd before 254 says of the one setting that it does not know
// and that its unit can do without.
var tooNew = regexp.MustCompile(`(?m)^.*/bieldd\.service:\d+: Unknown key (name )?'DelegateSubgroup' in section .*, ignoring\.\n`)

// TestUnits has systemd read the units as they are installed.
func TestUnits(t *testing.T) {
	need(t, "systemd-analyze")
	root := t.TempDir()
	makeTarget(t, "install", "PREFIX="+root, "SYSCONFDIR="+root+"/etc")
	units := filepath.Join(root, "lib/systemd/system")
	verify := func(unit string) (string, error) {
		cmd := exec.Command("systemd-analyze", "verify", "--man=no", filepath.Join(units, unit))
		cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+units+":")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, unit := range []string{"bieldd.service", "bield-vms.service", "bield@claude-home.service"} {
		out, err := verify(unit)
		if out = tooNew.ReplaceAllString(out, ""); err != nil || out != "" {
			t.Errorf("%s: %v\n%s", unit, err, out)
		}
	}
	good, err := os.ReadFile(filepath.Join(units, "bieldd.service"))
	if err != nil {
		t.Fatal(err)
	}
	bad := strings.Replace(string(good), "KillMode=", "KilMode=", 1)
	if err := os.WriteFile(filepath.Join(units, "bieldd.service"), []byte(bad), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, _ := verify("bieldd.service"); !strings.Contains(out, "KilMode") {
		t.Errorf("a misspelt unit is taken: %q", out)
	}
}

// TestManualOfDaemon holds bieldd's page to its flags.
func TestManualOfDaemon(t *testing.T) {
	need(t, "make", "groff")
	dependOnTree(t)
	out, err := exec.Command(filepath.Join(built, "bieldd"), "--help").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../packaging/man/bieldd.8.in")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		name, isFlag := strings.CutPrefix(line, "  -")
		if !isFlag {
			continue
		}
		name = strings.Fields(name)[0]
		if !strings.Contains(string(page), `\-\-`+strings.ReplaceAll(name, "-", `\-`)) {
			t.Errorf("bieldd(8) does not know --%s", name)
		}
	}
	if said := run(t, "groff", "-man", "-Tutf8", "-Kutf8", "-ww", "-z", "packaging/man/bieldd.8.in"); said != "" {
		t.Errorf("bieldd(8): %s", said)
	}
}
