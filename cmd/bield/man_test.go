package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestManual holds the manual to the verbs and flags that there are, and to
// what groff takes for a manual page.
func TestManual(t *testing.T) {
	root := newRootCommand(newApp(io.Discard, io.Discard))
	root.InitDefaultCompletionCmd()
	dir := t.TempDir()
	if err := writeManual(root, dir); err != nil {
		t.Fatal(err)
	}
	pages := map[string]bool{}
	eachVerb(root, func(c *cobra.Command) {
		name := strings.ReplaceAll(c.CommandPath(), " ", "-") + ".1"
		pages[name] = true
		page, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			return
		}
		for _, set := range []*pflag.FlagSet{c.NonInheritedFlags(), c.InheritedFlags()} {
			set.VisitAll(func(f *pflag.Flag) {
				if flag := `\fB` + roff("--"+f.Name) + `\fR`; !f.Hidden && !strings.Contains(string(page), flag) {
					t.Errorf("%s does not know --%s", name, f.Name)
				}
			})
		}
		if c.Short == "" || !strings.Contains(string(page), roff(c.Short)) {
			t.Errorf("%s does not say what the verb is for", name)
		}
	})
	found, err := os.ReadDir(dir)
	if err != nil || len(found) != len(pages) {
		t.Errorf("%d pages for %d verbs: %v", len(found), len(pages), err)
	}
	format(t, dir)
}

func eachVerb(c *cobra.Command, visit func(*cobra.Command)) {
	visit(c)
	for _, v := range c.Commands() {
		if !v.Hidden && v.Name() != "help" && c.Name() != "completion" {
			eachVerb(v, visit)
		}
	}
}

func format(t *testing.T, dir string) {
	if _, err := exec.LookPath("groff"); err != nil {
		if os.Getenv("BIELD_TEST_REQUIRE") == "1" {
			t.Fatal("required: there is no groff: `make testdeps` gets it")
		}
		t.Skip("there is no groff: `make testdeps` gets it")
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("groff", append([]string{"-man", "-Tutf8", "-Kutf8", "-ww", "-z"}, pages...)...).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("groff: %v\n%s", err, out)
	}
}

// TestManualEscapes writes what would be markup.
func TestManualEscapes(t *testing.T) {
	c := &cobra.Command{Use: "odd", Short: `back\slash "quoted" -x`, Run: func(*cobra.Command, []string) {},
		Long: ".SH is no request\n\n'nor this\n\n  .nf\n  literal `bold`\n\none ` alone"}
	page := manPage(c)
	for _, want := range []string{
		"odd \\- back\\eslash \"quoted\" \\-x\n", "\n\\&.SH is no request\n", "\n\\&'nor this\n", "\n  .nf\n", "literal \\fBbold\\fR\n", "\none ` alone\n",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
}
