package deviceservice

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what the service does. No label names a device or a source.
type metrics struct {
	handshakes *prometheus.CounterVec   // suite, outcome
	seconds    *prometheus.HistogramVec // suite, of handshakes that succeeded
	channels   prometheus.Gauge
	requests   *prometheus.CounterVec // method, status
	keys       *prometheus.CounterVec // way
	full       *prometheus.CounterVec // cause
	panics     prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, away func() bool) (*metrics, error) {
	m := &metrics{
		handshakes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "devicekeys_service_handshakes_total",
			Help: "Handshakes, by suite (none where the peer did not come so far) and outcome: ok, or the reason of the refusal.",
		}, []string{"suite", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "devicekeys_service_handshake_seconds",
			Help: "Time from the accepted connection to the open channel, by suite; refused ones are not in it.",
			// From one key in a fast HSM to the handshake's deadline.
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"suite"}),
		channels: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "devicekeys_service_channels",
			Help: "Channels open.",
		}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "devicekeys_service_requests_total",
			Help: "Requests over channels, by method (other: none that is known) and status.",
		}, []string{"method", "status"}),
		keys: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "devicekeys_service_keys_total",
			Help: "Device keys brought into the HSM for a handshake, by way: derived, fetched.",
		}, []string{"way"}),
		full: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "devicekeys_service_connections_refused_total",
			Help: "Connections closed at once, by cause: as many channels as allowed were open (channels), or connections that had not proven themselves, of all (handshakes) or of one source (source).",
		}, []string{"cause"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "devicekeys_service_panics_total",
			Help: "Connections that ended by a fault of the service itself; the log says where.",
		}),
	}
	recordsAway := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "devicekeys_service_records_away",
		Help: "1 while the database of what was issued can't be read and answers come from memory.",
	}, func() float64 {
		if away() {
			return 1
		}
		return 0
	})
	for _, c := range []prometheus.Collector{m.handshakes, m.seconds, m.channels, m.requests, m.keys, m.full, m.panics, recordsAway} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
