package hypervisortest

import (
	"fmt"
	"strings"
)

// Table is what became of each driver in each case, for people.
func Table(reports ...Report) string {
	notes := &notes{}
	var b strings.Builder
	row := func(name string, cell func(Report) string) {
		fmt.Fprintf(&b, "%-20s", name)
		for _, r := range reports {
			fmt.Fprintf(&b, "  %-*s", max(len(r.Subject), 11), cell(r))
		}
		b.WriteString("\n")
	}
	row("", func(r Report) string { return r.Subject })
	for i, c := range cases() {
		row(c.name, func(r Report) string { return notes.cell(r.Results[i]) })
	}
	for i, reason := range notes.reasons {
		fmt.Fprintf(&b, "(%d) %s\n", i+1, reason)
	}
	return b.String()
}

// notes are the reasons below a table, each once.
type notes struct{ reasons []string }

func (n *notes) cell(r Result) string {
	if r.Why == "" {
		return string(r.Verdict)
	}
	for i, reason := range n.reasons {
		if reason == r.Why {
			return fmt.Sprintf("%s (%d)", r.Verdict, i+1)
		}
	}
	n.reasons = append(n.reasons, r.Why)
	return fmt.Sprintf("%s (%d)", r.Verdict, len(n.reasons))
}
