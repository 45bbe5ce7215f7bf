package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/spf13/cobra"

	"bield/internal/api"
)

func newEgressCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "egress",
		Short: "Where a VM may go, and what was refused to it",
		Long: `What a VM reaches is said by the option egress of the configuration; bield apply
puts a change in force while the VM runs.`,
		Args: usage(cobra.NoArgs),
	}
	c.AddCommand(newEgressCheckCommand(a), newEgressLogCommand(a))
	return c
}

func newEgressCheckCommand(a *app) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "check VM HOST[:PORT]",
		Short: "Say whether a VM may go somewhere, and why",
		Long: `Say whether a running VM may connect to a name or an address, by what rule, or why
not and what to write to open it. Names are resolved as the VM's would be. The
exit code is 1 if it may not. Without a port, 443 is meant.`,
		Example: `  bield egress check claude-home api.example.org
  bield egress check claude-home 10.0.0.5:5432`,
		Args: usage(cobra.ExactArgs(2)),
		RunE: func(c *cobra.Command, args []string) error {
			return runEgressCheck(c.Context(), a, args[0], args[1], asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
}

func runEgressCheck(ctx context.Context, a *app, name, target string, asJSON bool) error {
	d, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	answer, err := d.EgressCheck(ctx, name, target)
	if err != nil {
		return err
	}
	if asJSON {
		encoder := json.NewEncoder(a.out)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(answer); err != nil {
			return err
		}
	} else if err := a.printEgressCheck(answer); err != nil {
		return err
	}
	if !answer.Allowed {
		return &exitError{exitFailure, errors.New("")}
	}
	return nil
}

func (a *app) printEgressCheck(c api.EgressCheck) error {
	word, why := a.paint(a.out, red, "refused"), c.Reason
	if c.Allowed {
		word, why = a.paint(a.out, green, "allowed"), "by "+c.Rule
	}
	if _, err := fmt.Fprintf(a.out, "%s: %s to %s: %s\n", word, plainLine(c.VM), plainLine(c.Target), plainLine(why)); err != nil {
		return err
	}
	for _, address := range c.Addresses {
		state := "open"
		if !address.Allowed {
			state = "closed: " + address.Reason
		}
		if _, err := fmt.Fprintf(a.out, "  %-15s  %s\n", plainLine(address.Address), plainLine(state)); err != nil {
			return err
		}
	}
	return nil
}

func newEgressLogCommand(a *app) *cobra.Command {
	var follow, asJSON bool
	c := &cobra.Command{
		Use:   "log VM",
		Short: "What was refused to a VM",
		Long: `Print what a running VM tried to reach and may not: when last, how often, what and
why. Names are the guest's choice; control characters are left out. The newest
thousand different ones are kept while the host's egress process runs.`,
		Example: `  bield egress log -f claude-home`,
		Args:    usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			return runEgressLog(c.Context(), a, args[0], follow, asJSON)
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the VM ends")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return c
}

func runEgressLog(ctx context.Context, a *app, name string, follow, asJSON bool) error {
	d, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	ctx, stop := untilUnread(ctx, a.out)
	defer stop()
	show := a.printDenial
	if asJSON {
		encoder := json.NewEncoder(a.out)
		show = func(d api.Denial) error { return encoder.Encode(d) }
	}
	err = d.EgressLog(ctx, name, follow, show)
	if errors.Is(err, context.Canceled) {
		return nil // ^C is how following ends, or a reader that has gone
	}
	return err
}

// printDenial writes what was refused in columns.
func (a *app) printDenial(d api.Denial) error {
	where := cmp.Or(d.Name, d.Address)
	if d.Port != 0 {
		where = net.JoinHostPort(where, strconv.Itoa(int(d.Port)))
	}
	if d.Name != "" && d.Address != "" {
		where += " at " + d.Address
	}
	_, err := fmt.Fprintf(a.out, "%s  %4d×  %-4s  %s: %s\n", d.Last.Local().Format("2006-01-02 15:04:05"), d.Count, plainLine(d.Kind), plainLine(where), plainLine(d.Reason))
	return err
}
