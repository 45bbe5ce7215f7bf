package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"bield/internal/api"
)

func newUpCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "up [NAME…]",
		Short: "Start VMs; returns when each has run a command over SSH",
		Long: `Start the named VMs, or all that the file declares. Each is usable when up
returns: a command has run in it over SSH, under its pinned host key. A VM that
runs is left as it is. When one cannot start, all that was made for it is taken
back, and up says why.`,
		Example: `  sudo bield up claude-home
  sudo bield up -c host.yaml a b`,
		RunE: func(c *cobra.Command, args []string) error { return runUp(c.Context(), a, args) },
	}
}

func runUp(ctx context.Context, a *app, names []string) error {
	host, path, err := a.load(ctx)
	if err != nil {
		return err
	}
	// The daemon tells the VMs of one file from another's by its whole path.
	origin, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("find %s: %w", path, err)
	}
	d, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	p := a.newProgress("up")
	defer p.close()
	return d.Up(ctx, api.UpRequest{Host: host, Origin: origin, Names: names}, p.show)
}
