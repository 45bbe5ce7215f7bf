package main

import (
	"context"
	"fmt"

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
		Args: usage(cobra.NoArgs),
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
	if check || len(missing) == 0 {
		fmt.Fprintln(a.out, "nothing is missing")
		return nil
	}
	if err := cache.Make(); err != nil {
		return err
	}
	if err := host.Install(ctx, func(line string) { fmt.Fprintln(a.err, line) }); err != nil {
		return err
	}
	fmt.Fprintln(a.out, "all is there")
	return nil
}
