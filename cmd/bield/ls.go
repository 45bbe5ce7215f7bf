package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"bield/internal/spec"
)

func newListCommand(a *app) *cobra.Command {
	var asJSON, quiet, watch bool
	c := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the VMs of this host",
		Long: `List the VMs of this host. With --watch the list is printed anew whenever it
changes, until interrupted: on a terminal in the place of the last one; with
--json as one array a line.`,
		Args: usage(noArgs),
		RunE: func(c *cobra.Command, _ []string) error { return runList(c.Context(), a, asJSON, quiet, watch) },
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print a JSON array of all that is known")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print names alone")
	c.Flags().BoolVarP(&watch, "watch", "w", false, "go on with each change")
	return c
}

func runList(ctx context.Context, a *app, asJSON, quiet, watch bool) error {
	list := a.listPrinter(asJSON, quiet, watch)
	if watch {
		return a.watchList(ctx, list, asJSON)
	}
	d, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	reply, err := d.VMs(ctx)
	if err != nil {
		return err
	}
	return list(a.out, a.err, reply.VMs)
}

func (a *app) listPrinter(asJSON, quiet, compact bool) printer {
	return func(out, hint io.Writer, vms []spec.VMStatus) error {
		switch {
		case asJSON && compact:
			return json.NewEncoder(out).Encode(vms)
		case asJSON:
			return printJSON(out, vms)
		case quiet:
			for _, vm := range vms {
				fmt.Fprintln(out, vm.Name)
			}
			return nil
		default:
			return a.printVMs(out, hint, vms, time.Now())
		}
	}
}

func printJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

func (a *app) printVMs(out, hint io.Writer, vms []spec.VMStatus, now time.Time) error {
	if len(vms) == 0 {
		fmt.Fprintln(hint, "no VM yet: `bield up` starts those of your bield.yaml")
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATE\tIP\tVCPU\tMEM\tHYPERVISOR\tUPTIME\tWORKSPACE")
	for _, vm := range vms {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n", vm.Name, vm.State, vm.IP, vm.VCPU, mebibytes(vm.MemoryMiB), runsOn(vm), uptime(vm.Since, now), vm.Workspace)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, vm := range vms {
		if vm.Reason != "" {
			fmt.Fprintf(out, "%s %s: %s%s\n", a.paint(out, red, "!"), vm.Name, plainLine(vm.Reason), nextStart(vm, now))
		}
		if len(vm.RestartNeeded) > 0 {
			fmt.Fprintf(out, "~ %s: restart needed: %s\n", vm.Name, strings.Join(vm.RestartNeeded, ", "))
		}
	}
	printWhySlow(out, vms)
	return nil
}

// runsOn is "qemu/tcg", and "-" for a VM that does not run.
func runsOn(vm spec.VMStatus) string {
	if vm.Hypervisor == "" {
		return "-"
	}
	return vm.Hypervisor + "/" + vm.Accelerator
}

// printWhySlow says, once for all VMs of which it is true, why they run without
// KVM.
func printWhySlow(out io.Writer, vms []spec.VMStatus) {
	said := map[string]bool{}
	for _, vm := range vms {
		if vm.Accelerator == "tcg" && !said[vm.HypervisorWhy] {
			said[vm.HypervisorWhy] = true
			fmt.Fprintf(out, "~ slow: %s\n", vm.HypervisorWhy)
		}
	}
}

// nextStart says when a VM that has ended by itself is started again.
func nextStart(vm spec.VMStatus, now time.Time) string {
	if vm.NextStart == nil {
		return ""
	}
	return fmt.Sprintf("; it is started again in %ds", int(max(0, vm.NextStart.Sub(now)).Seconds()))
}

func mebibytes(n int) string {
	if n%1024 == 0 {
		return fmt.Sprintf("%dG", n/1024)
	}
	return fmt.Sprintf("%dM", n)
}

// uptime is in the two largest units, "-" for a VM that does not run.
func uptime(since *time.Time, now time.Time) string {
	if since == nil {
		return "-"
	}
	d := max(0, now.Sub(*since))
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}
