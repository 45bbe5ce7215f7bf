package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"bield/internal/api"
)

func newVerifyCommand(a *app) *cobra.Command {
	var asJSON, holesAlone bool
	c := &cobra.Command{
		Use:   "verify NAME",
		Short: "Try to break out of a running VM, and say what came of it",
		Long: `Go into a running VM as its root and try what a hostile guest would: every port on
which the host listens, the other VMs, private networks, other resolvers, spoofed
frames, devices, ways out of each share, what the last run left behind.

Each line is an attempt, what it should come to, and what it did. The exit code is
1 if one came through that should not. What was marked with ? could not be checked.

A small program is brought into the guest for that; nothing of the guest's own is
used, but its kernel makes the system calls: verify a VM before you hand it over,
not after a hostile guest had it. Sockets and files of the host that the attempts
need are there for as long as it takes.`,
		Example: `  bield verify claude-home
  bield verify claude-home --json | jq '.attempts[] | select(.hole)'`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			return runVerify(c.Context(), a, args[0], asJSON, holesAlone)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print a JSON object with all attempts")
	c.Flags().BoolVarP(&holesAlone, "holes", "q", false, "print holes alone")
	return c
}

func runVerify(ctx context.Context, a *app, name string, asJSON, holesAlone bool) error {
	d, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	reply, err := d.Verify(ctx, name)
	if err != nil {
		return err
	}
	if asJSON {
		err = printJSON(a.out, reply)
	} else {
		err = a.printAttempts(a.out, reply.Attempts, holesAlone)
	}
	if err != nil {
		return err
	}
	holes, unchecked := count(reply.Attempts)
	if holes > 0 {
		return fmt.Errorf("%s: %d of %d attempts came through", name, holes, len(reply.Attempts))
	}
	if !asJSON {
		fmt.Fprintf(a.out, "%s: no hole in %d attempts%s\n", name, len(reply.Attempts), notChecked(unchecked))
	}
	return nil
}

func notChecked(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("; %d could not be checked", n)
}

func count(attempts []api.Attempt) (holes, unchecked int) {
	for _, t := range attempts {
		if t.Hole {
			holes++
		}
		if t.Unchecked {
			unchecked++
		}
	}
	return holes, unchecked
}

// printAttempts prints a table; what a guest said is in it.
func (a *app) printAttempts(out io.Writer, attempts []api.Attempt, holesAlone bool) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tCATEGORY\tATTEMPT\tEXPECTED\tGOT")
	for _, t := range attempts {
		mark := "ok"
		switch {
		case t.Hole:
			mark = "HOLE"
		case t.Unchecked:
			mark = "?"
		}
		if t.Hole || !holesAlone {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", mark, t.Category, plainLine(t.Attempt), t.Expected, plainLine(t.Got))
		}
	}
	return w.Flush()
}
