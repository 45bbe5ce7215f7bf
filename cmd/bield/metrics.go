package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"
)

func newMetricsCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "metrics",
		Short: "The daemon's metrics, in Prometheus's text form",
		Long: `Print the metrics that the daemon serves at /metrics on its socket: VMs by state,
boot times, steps and errors by kind, restarts, memory. Prometheus reads them
there, or over TCP from a bieldd with --metrics-listen 127.0.0.1:PORT.`,
		Args: usage(noArgs),
		RunE: func(c *cobra.Command, _ []string) error { return runMetrics(c.Context(), a) },
	}
}

func runMetrics(ctx context.Context, a *app) error {
	d, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	metrics, err := d.Metrics(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = metrics.Close() }()
	_, err = io.Copy(a.out, metrics)
	return err
}
