package console

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// healthTimeout bounds a health check: a check that waits longer is an answer too. Below the ten seconds after
	// which Prometheus and most load balancers give up.
	healthTimeout = 5 * time.Second

	// metricsInFlight bounds how many scrapes run at once: a pair of Prometheus servers and someone with curl.
	metricsInFlight = 4
)

// ServeMetrics serves the admin address of a program until ctx is cancelled: /metrics, the registry's metrics, and
// /healthz, 200 "ok" or 503. It has no authentication and no secrets: bind it to an address that only monitoring
// reaches. An empty address means no admin server; ServeMetrics then returns at once.
//
// health may be nil, for "alive is enough". Its error is logged, not shown to whoever asks.
func ServeMetrics(ctx context.Context, addr string, registry *prometheus.Registry, health func(context.Context) error) error {
	if addr == "" {
		return nil
	}
	l, err := Listen(ctx, addr)
	if err != nil {
		return err
	}
	return ServeHTTP(ctx, &http.Server{Handler: AdminHandler(registry, health)}, l, time.Second)
}

// AdminHandler is what ServeMetrics serves, for a program that opens the listener itself.
func AdminHandler(registry *prometheus.Registry, health func(context.Context) error) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: metricsInFlight,
		Timeout:             healthTimeout,
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if health != nil {
			ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
			defer cancel()
			if err := health(ctx); err != nil {
				slog.WarnContext(ctx, "not healthy", "error", err)
				http.Error(w, "not healthy; the log says why", http.StatusServiceUnavailable)
				return
			}
		}
		// A lost client has no use for the error.
		_, _ = io.WriteString(w, "ok\n")
	})
	return mux
}
