package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"bield/internal/api"
)

type applyOptions struct{ purge, yes, force bool }

func newApplyCommand(a *app) *cobra.Command {
	var o applyOptions
	c := &cobra.Command{
		Use:   "apply",
		Short: "Bring this host to what the file declares",
		Long: `Do what plan shows. VMs of the file that run and have changed are restarted, or
changed while they run where that is enough; with restartIfChanged: false they are
left, and ls says so. VMs that the file no longer declares are stopped, and
everything of them removed but their state folder. VMs with autostart that don't
run are started. VMs of other files, and those without a change, are not touched.`,
		Example: `  bield plan && echo nothing to do
  sudo bield apply
  sudo bield apply --purge`,
		Args: usage(noArgs),
		RunE: func(c *cobra.Command, _ []string) error { return runApply(c.Context(), a, o) },
	}
	c.Flags().BoolVar(&o.purge, "purge", false, "also remove the state folders (SSH host keys) of VMs that the file no longer declares")
	c.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask before --purge")
	c.Flags().BoolVar(&o.force, "force", false, "start VMs also where the host has not enough memory or room for them")
	return c
}

func runApply(ctx context.Context, a *app, o applyOptions) error {
	d, request, reply, err := a.planFile(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	if request.Purge, err = a.mayPurge(reply, o); err != nil {
		return err
	}
	fmt.Fprintln(a.err, summary(reply))
	request.Force = o.force
	p := a.newProgress("apply")
	defer p.close()
	return d.Apply(ctx, request, p.show)
}

// mayPurge asks before folders are removed.
func (a *app) mayPurge(p api.PlanReply, o applyOptions) ([]string, error) {
	switch {
	case !o.purge:
		return nil, nil
	case o.yes || len(p.Purgeable) == 0:
		return p.Purgeable, nil
	case !isTerminal(os.Stdin) || !isTerminal(a.err):
		return nil, errors.New("--purge asks first, and there is no terminal: add --yes")
	}
	fmt.Fprintf(a.err, "Remove the state folders (SSH host keys, console logs) of %s? [y/N] ", strings.Join(p.Purgeable, ", "))
	answer, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil || !strings.EqualFold(strings.TrimSpace(answer), "y") {
		return nil, errors.New("nothing was changed")
	}
	return p.Purgeable, nil
}
