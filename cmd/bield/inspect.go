package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
)

func newInspectCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect NAME…",
		Short: "All that is known of a VM, as JSON",
		Long: `Print a JSON object for each of the named VMs, one after another: its status, what
its file declares and what it runs as, its image, its processes on the host and
the memory that they hold, and its files.`,
		Example: `  bield inspect claude-home | jq .status.state
  bield inspect a b | jq -r '[.status.name, (.processes | map(.pss) | add)] | @tsv'`,
		Args: usage(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error { return runInspect(c.Context(), a, args) },
	}
}

// runInspect shows what it can: one VM that is not there, or another's, does
// not keep it from the others.
func runInspect(ctx context.Context, a *app, names []string) error {
	d, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	var failures []error
	for _, name := range names {
		vm, err := d.Inspect(ctx, name)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		if err := printJSON(a.out, vm); err != nil {
			return err
		}
	}
	return errors.Join(failures...)
}
