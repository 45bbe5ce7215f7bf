package main

import (
	"context"

	"github.com/spf13/cobra"

	"bield/internal/api"
)

func newRestartCommand(a *app) *cobra.Command {
	var all, force bool
	c := &cobra.Command{
		Use:   "restart NAME…",
		Short: "Stop VMs and start them as they were declared last",
		Long: `Stop the named VMs and start them again, with a new root, as apply or up declared
them last; no file is read. One that is down is started.`,
		Example: `  bield restart claude-home
  bield restart --all`,
		Args: namesOrAll(&all),
		RunE: func(c *cobra.Command, args []string) error { return runRestart(c.Context(), a, args, all, force) },
	}
	c.Flags().BoolVar(&all, "all", false, "every VM that runs on this host, whatever file it comes from")
	c.Flags().BoolVar(&force, "force", false, "start VMs also where the host has not enough memory or room for them")
	return c
}

func runRestart(ctx context.Context, a *app, names []string, all, force bool) error {
	d, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	if all {
		reply, err := d.VMs(ctx)
		if err != nil {
			return err
		}
		for _, vm := range reply.VMs {
			if vm.State == "running" || vm.State == "starting" || vm.State == "restarting" {
				names = append(names, vm.Name)
			}
		}
		if len(names) == 0 {
			return nil
		}
	}
	p := a.newProgress("restart")
	defer p.close()
	return d.Start(ctx, api.StartRequest{Names: names, Restart: true, Force: force}, p.show)
}
