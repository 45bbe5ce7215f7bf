package server

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"bield/internal/api"
)

const (
	// maxScrapes bounds how many read the metrics at once: each looks at every
	// process of the host.
	maxScrapes    = 2
	scrapeTimeout = 10 * time.Second
)

// metricsHandler answers with the metrics in Prometheus's text form.
func metricsHandler(metrics prometheus.Gatherer, log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn), MaxRequestsInFlight: maxScrapes, Timeout: scrapeTimeout,
	})
}

// NewMetrics returns a server of the metrics and nothing else, for a TCP
// address. It asks nobody who they are.
func NewMetrics(metrics prometheus.Gatherer, log *slog.Logger) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET "+api.PathMetrics, metricsHandler(metrics, log))
	return &http.Server{
		Handler:           http.MaxBytesHandler(mux, 0),
		ReadHeaderTimeout: scrapeTimeout,
		ReadTimeout:       scrapeTimeout,
		WriteTimeout:      2 * scrapeTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}
