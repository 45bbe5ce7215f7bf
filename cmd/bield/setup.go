package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"bield/internal/setup"
	"bield/internal/state"
)

func newSetupCommand(a *app) *cobra.Command {
	var check bool
	c := &cobra.Command{
		Use:   "setup",
		Short: "Get what this machine lacks: QEMU, virtiofsd, mmdebstrap",
		Long: `Install the programs that bield starts, from the distribution's own packages.
Where the distribution has no virtiofsd that is new enough (Debian 12), the one of
the next release is unpacked beside bield, from the same package sources.`,
		Args: usage(noArgs),
		RunE: func(c *cobra.Command, _ []string) error { return runSetup(c.Context(), a, check) },
	}
	c.Flags().BoolVarP(&check, "dry-run", "n", false, "only say what is missing; exit 1 if anything is")
	return c
}

func runSetup(ctx context.Context, a *app, check bool) error {
	cache := state.CacheFromEnv()
	host := setup.Host{CacheDir: cache.Dir}
	missing, err := host.Missing(ctx)
	if err != nil {
		return err
	}
	required := 0
	for _, need := range missing {
		fmt.Fprintf(a.out, "missing: %s (%s)\n", need.Program, need.Purpose)
		if !need.Optional {
			required++
		}
	}
	if check && required > 0 {
		return fmt.Errorf("%d programs are missing: `sudo bield setup` gets them", required)
	}
	if check {
		fmt.Fprintln(a.out, "nothing is missing")
		return nil
	}
	if len(missing) > 0 {
		if err := a.install(ctx, host, cache); err != nil {
			return err
		}
	}
	fmt.Fprintln(a.out, "all is there")
	return a.makeGroup(ctx)
}

func (a *app) install(ctx context.Context, host setup.Host, cache state.Cache) error {
	if err := cache.Make(); err != nil {
		return err
	}
	return host.Install(ctx, func(line string) { fmt.Fprintln(a.err, line) })
}

// makeGroup makes the group whose members use bield without sudo.
func (a *app) makeGroup(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return nil
	}
	made, err := setup.EnsureGroup(ctx)
	if made {
		fmt.Fprintf(a.out, "made the group %[1]s; its members use their VMs without sudo: `sudo usermod -aG %[1]s USER`, then log in again\n", setup.Group)
	}
	return err
}
