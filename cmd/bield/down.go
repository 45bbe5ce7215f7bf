package main

import (
	"context"

	"github.com/spf13/cobra"

	"bield/internal/api"
)

func newDownCommand(a *app) *cobra.Command {
	var force, all bool
	c := &cobra.Command{
		Use:   "down [NAME…]",
		Short: "Stop VMs and remove all that was made for them",
		Long: `Stop the named VMs, or all that the file declares. The guest is asked to power
off; one that takes longer than its stopTimeout is ended by force. The root file
system is forgotten; workspaces and host keys stay.`,
		Example: `  bield down claude-home
  bield down --all`,
		RunE: func(c *cobra.Command, args []string) error {
			return runDown(c.Context(), a, args, all, force)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "every VM that runs on this host, whatever file it comes from")
	c.Flags().BoolVar(&force, "force", false, "end the VMs without asking their guests")
	return c
}

func runDown(ctx context.Context, a *app, names []string, all, force bool) error {
	d, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	if len(names) == 0 {
		if names, err = a.stoppable(ctx, d.VMs, all); err != nil || len(names) == 0 {
			return err
		}
	}
	p := a.newProgress("down")
	defer p.close()
	return d.Down(ctx, api.DownRequest{Names: names, Force: force}, p.show)
}

// stoppable names the VMs that the file declares and the host knows, or all.
func (a *app) stoppable(ctx context.Context, list func(context.Context) (api.VMsReply, error), all bool) ([]string, error) {
	reply, err := list(ctx)
	if err != nil {
		return nil, err
	}
	declared := map[string]bool{}
	if !all {
		host, _, err := a.load(ctx)
		if err != nil {
			return nil, err
		}
		for _, name := range host.Names() {
			declared[name] = true
		}
	}
	var names []string
	for _, vm := range reply.VMs {
		if all || declared[vm.Name] {
			names = append(names, vm.Name)
		}
	}
	return names, nil
}
