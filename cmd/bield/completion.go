package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"bield/internal/api/client"
)

// completionTimeout is how long somebody waits for a name to appear.
const completionTimeout = 2 * time.Second

// completeVMs lets every verb below c whose arguments are VMs complete names.
func (a *app) completeVMs(parent *cobra.Command) {
	for _, c := range parent.Commands() {
		a.completeVMs(c)
		switch {
		case c.ValidArgsFunction != nil:
		case strings.Contains(c.Use, "NAME…"):
			c.ValidArgsFunction = a.completeNames(-1)
		case strings.Contains(c.Use, "NAME"):
			c.ValidArgsFunction = a.completeNames(1)
		}
	}
}

// completeNames offers the VMs that are not on the line yet, up to limit names;
// without limit if that is negative.
func (a *app) completeNames(limit int) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
		if limit >= 0 && len(args) >= limit {
			return nil, cobra.ShellCompDirectiveDefault
		}
		ctx, cancel := context.WithTimeout(c.Context(), completionTimeout)
		defer cancel()
		names := slices.DeleteFunc(a.names(ctx), func(name string) bool {
			return !strings.HasPrefix(name, start) || slices.Contains(args, name)
		})
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// names are the VMs that the daemon knows, where one runs, and those of the
// file. A completion has nobody to tell an error to.
func (a *app) names(ctx context.Context) []string {
	var names []string
	d := client.New(a.run.Socket())
	defer d.Close()
	if reply, err := d.VMs(ctx); err == nil {
		for _, vm := range reply.VMs {
			names = append(names, vm.Name)
		}
	}
	if host, _, err := a.load(ctx); err == nil {
		names = append(names, host.Names()...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
