package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"bield/internal/api"
	"bield/internal/api/client"
)

func newPlanCommand(a *app) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "plan",
		Short: "Show what apply would do, and why",
		Long: `Compare this host with the file and print the steps that would bring it there,
VM by VM, each with its reason. Nothing is changed. The exit code is 0 when there
is nothing to do and 2 when there is.`,
		Args: usage(noArgs),
		RunE: func(c *cobra.Command, _ []string) error { return runPlan(c.Context(), a, asJSON) },
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print a JSON object")
	return c
}

func runPlan(ctx context.Context, a *app, asJSON bool) error {
	d, _, reply, err := a.planFile(ctx)
	if err != nil {
		return err
	}
	d.Close()
	if asJSON {
		err = printJSON(a.out, reply)
	} else {
		a.printPlan(reply)
	}
	if err == nil && reply.Steps() > 0 {
		err = &exitError{exitChanges, errors.New("")}
	}
	return err
}

// planFile reads the file and asks what it would change. The client is the
// caller's to close.
func (a *app) planFile(ctx context.Context) (*client.Client, api.ApplyRequest, api.PlanReply, error) {
	request, err := a.applyRequest(ctx)
	if err != nil {
		return nil, request, api.PlanReply{}, err
	}
	d, err := a.daemon(ctx)
	if err != nil {
		return nil, request, api.PlanReply{}, err
	}
	reply, err := d.Plan(ctx, request)
	if err != nil {
		d.Close()
	}
	return d, request, reply, err
}

// applyRequest reads the file.
func (a *app) applyRequest(ctx context.Context) (api.ApplyRequest, error) {
	host, path, err := a.load(ctx)
	if err != nil {
		return api.ApplyRequest{}, err
	}
	// The daemon tells the VMs of one file from another's by its whole path.
	origin, err := filepath.Abs(path)
	if err != nil {
		return api.ApplyRequest{}, fmt.Errorf("find %s: %w", path, err)
	}
	return api.ApplyRequest{Host: host, Origin: origin}, nil
}

func (a *app) printPlan(p api.PlanReply) {
	for _, c := range p.Changes {
		a.printChange(c)
	}
	for _, steps := range [][]api.Step{p.Before, p.After} {
		if len(steps) > 0 {
			fmt.Fprintf(a.out, "  host: %s\n", strings.Join(names(steps), ", "))
		}
	}
	for _, name := range p.Purgeable {
		fmt.Fprintf(a.out, "  %s: no longer declared; its state folder stays (`bield apply --purge` removes it)\n", name)
	}
	fmt.Fprintln(a.out, summary(p))
}

func (a *app) printChange(c api.Change) {
	mark := map[string]string{"start": "+", "restart": "~", "update": "~", "remove": "-", "nothing": "!"}[c.Action]
	colour := map[string]string{"+": green, "-": red}[mark]
	if colour != "" {
		mark = a.paint(a.out, colour, mark)
	}
	if c.Action != "nothing" {
		fmt.Fprintf(a.out, "%s %s: %s: %s\n", mark, c.VM, c.Action, strings.Join(c.Reasons, ", "))
	}
	for _, steps := range [][]api.Step{c.Stop, c.Start} {
		if len(steps) > 0 {
			fmt.Fprintf(a.out, "    %s\n", strings.Join(names(steps), ", "))
		}
	}
	if len(c.Pending) > 0 {
		fmt.Fprintf(a.out, "! %s: a restart is needed: %s (restartIfChanged is false: `bield restart %s`)\n", c.VM, strings.Join(c.Pending, ", "), c.VM)
	}
}

func names(steps []api.Step) []string {
	var names []string
	for _, s := range steps {
		name := s.Kind
		if s.Share != "" {
			name += " " + s.Share
		}
		names = append(names, name)
	}
	return names
}

// summary counts what is to be done.
func summary(p api.PlanReply) string {
	count := map[string]int{}
	for _, c := range p.Changes {
		count[c.Action]++
	}
	var parts []string
	for _, action := range []string{"start", "restart", "update", "remove"} {
		if n := count[action]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d to %s", n, action))
		}
	}
	switch {
	case p.Steps() == 0:
		return "nothing to do"
	case len(parts) == 0:
		parts = append(parts, "the host itself")
	}
	return fmt.Sprintf("%s; %d unchanged", strings.Join(parts, ", "), len(p.Unchanged)+count["nothing"])
}
