package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"bield/internal/api"
	"bield/internal/api/client"
	"bield/internal/spec"
)

type upOptions struct{ all, applied, wait, force bool }

func newUpCommand(a *app) *cobra.Command {
	var o upOptions
	c := &cobra.Command{
		Use:   "up [NAME…]",
		Short: "Start VMs; returns when each has run a command over SSH",
		Long: `Start the named VMs, or all that the file declares. Each is usable when up
returns: a command has run in it over SSH, under its pinned host key. A VM that
runs is left as it is; apply and restart change it. When one cannot start, all
that was made for it is taken back, and up says why.`,
		Example: `  sudo bield up claude-home
  sudo bield up -c host.yaml a b
  bield up --applied --wait claude-home    (what a systemd unit runs)`,
		Args: func(_ *cobra.Command, args []string) error {
			if o.all && len(args) > 0 {
				return &exitError{exitUsage, errors.New("--all takes no names")}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return runUp(c.Context(), a, args, o) },
	}
	c.Flags().BoolVar(&o.all, "all", false, "every VM that this host was ever told of, whatever file it comes from; no file is read")
	c.Flags().BoolVar(&o.applied, "applied", false, "start the VMs as they were declared last; no file is read")
	c.Flags().BoolVar(&o.wait, "wait", false, "stay until the VMs have ended; exit 1 if one failed")
	c.Flags().BoolVar(&o.force, "force", false, "start VMs also where the host has not enough memory or room for them")
	return c
}

func runUp(ctx context.Context, a *app, names []string, o upOptions) error {
	begin, err := a.upCall(ctx, names, o)
	if err != nil {
		return err
	}
	d, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	p := a.newProgress("up")
	err = begin(d, p.show)
	p.close()
	if err != nil || !o.wait {
		return err
	}
	if err := a.manager.Ready("runs"); err != nil {
		return err
	}
	return a.waitForEnd(ctx, d, names)
}

// upCall is what up asks of the daemon; the file is read before it is looked
// for.
func (a *app) upCall(ctx context.Context, names []string, o upOptions) (func(*client.Client, func(api.Event)) error, error) {
	if o.all || o.applied {
		return func(d *client.Client, show func(api.Event)) error {
			return d.Start(ctx, api.StartRequest{Names: names, Force: o.force}, show)
		}, nil
	}
	file, err := a.applyRequest(ctx)
	if err != nil {
		return nil, err
	}
	return func(d *client.Client, show func(api.Event)) error {
		return d.Up(ctx, api.UpRequest{Host: file.Host, Origin: file.Origin, Names: names, Force: o.force}, show)
	}, nil
}

// waitForEnd returns when none of the VMs runs any more.
func (a *app) waitForEnd(ctx context.Context, d *client.Client, names []string) error {
	if len(names) == 0 {
		reply, err := d.VMs(ctx)
		if err != nil {
			return err
		}
		for _, vm := range reply.VMs {
			names = append(names, vm.Name)
		}
	}
	var failed error
	for _, name := range names {
		vm, err := patientWait(ctx, d, name)
		switch {
		case err != nil:
			return err
		case vm.State == spec.StateFailed:
			failed = errors.Join(failed, fmt.Errorf("%s failed: %s", name, vm.Reason))
		default:
			fmt.Fprintf(a.err, "%s: is down\n", name)
		}
	}
	return failed
}

// patientWait goes on when the daemon is restarted meanwhile: VMs go on, too.
func patientWait(ctx context.Context, d *client.Client, name string) (spec.VMStatus, error) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		reply, err := d.Wait(ctx, name)
		var refused *api.Error
		if err == nil || ctx.Err() != nil || errors.As(err, &refused) {
			return reply.VM, err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return reply.VM, ctx.Err()
		}
	}
}
