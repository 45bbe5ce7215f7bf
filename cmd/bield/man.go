package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// newManCommand is for those who package bield, and so hidden: `make install`
// calls it.
func newManCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "man FOLDER",
		Short:  "Write the manual pages of all verbs",
		Args:   usage(cobra.ExactArgs(1)),
		Hidden: true,
		RunE:   func(c *cobra.Command, args []string) error { return writeManual(c.Root(), args[0]) },
	}
}

func writeManual(c *cobra.Command, dir string) error {
	path := filepath.Join(dir, pageName(c)+".1")
	if err := os.WriteFile(path, []byte(manPage(c)), 0o644); err != nil {
		return fmt.Errorf("write manual page: %w", err)
	}
	for _, verb := range verbs(c) {
		if err := writeManual(verb, dir); err != nil {
			return err
		}
	}
	return nil
}

func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// verbs are those below c that have a page: not cobra's own help, and one for
// the completions of all shells together.
func verbs(c *cobra.Command) []*cobra.Command {
	if c.Name() == "completion" {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(c.Commands()), func(v *cobra.Command) bool {
		return !v.IsAvailableCommand() || v.Name() == "help"
	})
}

// manPage is the page of one verb in the language of man(7). Its date is left
// out: the same tree makes the same page.
func manPage(c *cobra.Command) string {
	var p page
	p.request("TH", strings.ToUpper(pageName(c)), "1", "", "bield "+version, "User Commands")
	p.section("NAME")
	p.line(pageName(c) + " - " + c.Short)
	p.section("SYNOPSIS")
	if len(verbs(c)) > 0 {
		p.request("B", c.CommandPath()+" VERB …")
	} else {
		p.request("B", c.UseLine())
	}
	p.section("DESCRIPTION")
	p.text(cmp.Or(c.Long, c.Short+"."))
	p.verbs(c)
	p.flags("OPTIONS", c.NonInheritedFlags())
	p.flags("OPTIONS OF EVERY VERB", c.InheritedFlags())
	if c.Example != "" {
		p.section("EXAMPLES")
		p.literal(c.Example)
	}
	if !c.HasParent() {
		p.WriteString(rootSections)
	}
	p.seeAlso(c)
	return p.String()
}

// page is a manual page as it grows.
type page struct{ strings.Builder }

// request writes a line that begins with a macro; arguments are quoted.
func (p *page) request(macro string, args ...string) {
	p.WriteString("." + macro)
	for _, arg := range args {
		p.WriteString(` "` + strings.ReplaceAll(roff(arg), `"`, `\(dq`) + `"`)
	}
	p.WriteString("\n")
}

func (p *page) section(title string) { p.request("SH", title) }

// line writes one of text; what stands in backquotes is printed bold.
func (p *page) line(text string) {
	parts := strings.Split(roff(text), "`")
	for i, part := range parts {
		switch {
		case i%2 == 0:
			p.WriteString(part)
		case i == len(parts)-1:
			p.WriteString("`" + part)
		default:
			p.WriteString(`\fB` + part + `\fR`)
		}
	}
	p.WriteString("\n")
}

// text writes paragraphs, those with indented lines as they are.
func (p *page) text(text string) {
	for i, paragraph := range strings.Split(strings.Trim(text, "\n"), "\n\n") {
		if i > 0 {
			p.request("PP")
		}
		if strings.Contains("\n"+paragraph, "\n ") || strings.Contains(paragraph, "\t") {
			p.literal(paragraph)
			continue
		}
		p.line(strings.ReplaceAll(paragraph, "\n", " "))
	}
}

func (p *page) literal(text string) {
	p.request("nf")
	for line := range strings.Lines(text) {
		p.line(strings.TrimSuffix(line, "\n"))
	}
	p.request("fi")
}

func (p *page) verbs(c *cobra.Command) {
	if len(verbs(c)) == 0 {
		return
	}
	p.section("VERBS")
	for _, v := range verbs(c) {
		p.request("TP")
		p.line(fmt.Sprintf("`%s`(1)", pageName(v)))
		p.line(v.Short)
	}
}

func (p *page) flags(title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	p.section(title)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, text := pflag.UnquoteUsage(f)
		head := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			head = "`-" + f.Shorthand + "`, " + head
		}
		if value != "" {
			head += " " + strings.ToUpper(value)
		}
		p.request("TP")
		p.line(head)
		p.line(text)
	})
}

func (p *page) seeAlso(c *cobra.Command) {
	p.section("SEE ALSO")
	pages := []string{"`bieldd`(8)"}
	if c.HasParent() {
		pages = append([]string{fmt.Sprintf("`%s`(1)", pageName(c.Parent()))}, pages...)
	}
	p.line(strings.Join(pages, ", "))
}

// roff keeps text from being taken for markup, and hyphens from being changed:
// what is in a page can be copied from there.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "\t", "    ").Replace(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text
	}
	return text
}

// rootSections end the page of bield itself.
const rootSections = `.SH "FILES"
.TP
.I ~/.config/bield/bield.yaml\fR, \fI/etc/bield/bield.yaml
Declares the VMs: the first one that exists is taken.
.TP
.I /var/lib/bield
What is kept: host keys, the keys of bield and of its users, the applied spec, consoles.
.TP
.I /var/cache/bield
Images and tools; they can be made again.
.TP
.I /run/bield
What runs: the daemon's socket, records, sockets of VMs.
.SH "ENVIRONMENT"
.TP
.B BIELD_RUN_DIR\fR, \fBBIELD_CACHE_DIR
Other folders than /run/bield and /var/cache/bield, for a second bield beside the host's own.
.TP
.B NO_COLOR
No colours on the terminal.
.SH "EXIT STATUS"
.TP
.B 0
Done.
.TP
.B 1
It failed; one message says why.
.TP
.B 2
Wrong use of a verb.
.TP
.B 130
Interrupted.
.PP
\fBbield\-ssh\fR(1) passes on the exit status of the command, 255 where OpenSSH itself failed, and 125 where bield did.
`
