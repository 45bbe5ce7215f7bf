package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"bield/internal/api/client"
)

func newVersionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the versions of bield and of the daemon that runs",
		Args:  usage(noArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			fmt.Fprintln(a.out, "bield", version)
			d := client.New(a.run.Socket())
			defer d.Close()
			reply, err := d.Version(c.Context())
			switch {
			case errors.Is(err, client.ErrNoDaemon):
				fmt.Fprintln(a.out, "bieldd does not run")
			case err != nil:
				return err
			default:
				fmt.Fprintf(a.out, "bieldd %s (pid %d)\n", reply.Version, reply.PID)
			}
			return nil
		},
	}
}
