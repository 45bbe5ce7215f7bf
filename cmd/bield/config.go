package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"bield/internal/config"
)

func newConfigCommand(a *app) *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Check bield.yaml, or print its schema"}
	c.AddCommand(
		&cobra.Command{
			Use:   "check",
			Short: "Read the file and name all that is wrong with it; nothing is touched",
			Args:  usage(noArgs),
			RunE:  func(c *cobra.Command, _ []string) error { return runConfigCheck(c.Context(), a) },
		},
		&cobra.Command{
			Use:   "schema",
			Short: "Print the JSON Schema of bield.yaml, for editors",
			Args:  usage(noArgs),
			RunE:  func(*cobra.Command, []string) error { return runConfigSchema(a) },
		},
	)
	group(c)
	return c
}

func runConfigCheck(ctx context.Context, a *app) error {
	host, path, err := a.load(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.out, "%s is good; it declares: %s\n", path, strings.Join(host.Names(), ", "))
	return nil
}

func runConfigSchema(a *app) error {
	schema, err := config.Schema()
	if err != nil {
		return err
	}
	_, err = a.out.Write(append(schema, '\n'))
	return err
}
