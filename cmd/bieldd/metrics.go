package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	"bield/internal/api/server"
)

// checkMetrics refuses an address without a host: metrics are open to whoever
// reaches them, and "every address" is to be said on purpose.
func checkMetrics(address string) error {
	if address == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("--metrics-listen %s: %w", address, err)
	}
	if host == "" {
		return fmt.Errorf("--metrics-listen %s: give the host as well: 127.0.0.1:%s for this machine alone; 0.0.0.0:%s would open it to networks and guests", address, port, port)
	}
	return nil
}

// serveMetrics listens on a TCP address, where one is given, and answers until
// the daemon is closed.
func (d *daemon) serveMetrics(ctx context.Context, address string) error {
	if address == "" {
		return nil
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen for scrapes of metrics: %w", err)
	}
	if tcp, ok := listener.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
		d.log.Warn("metrics are open to whoever reaches this address", "address", listener.Addr().String())
	}
	d.metrics = server.NewMetrics(d.engine.Metrics(), d.log)
	go func() {
		if err := d.metrics.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			d.log.Error("serve metrics", "error", err)
		}
	}()
	d.log.Info("metrics", "address", listener.Addr().String())
	return nil
}
