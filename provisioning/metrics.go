package provisioning

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics of the assembly. No label holds an identity, a record id or a
// station's name.
type Metrics struct {
	devices    *prometheus.CounterVec   // step, result
	refusals   *prometheus.CounterVec   // step, code
	seconds    *prometheus.HistogramVec // step
	free       *prometheus.GaugeVec     // line
	lag        prometheus.Histogram
	oldest     prometheus.Gauge
	outbox     prometheus.Gauge
	aside      prometheus.Gauge
	setAside   prometheus.Counter
	deviceKeys prometheus.Gauge
}

// NewMetrics makes the metrics and registers them.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		devices: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "devicekeys_devices_total", Help: "Devices that took a step of the line, by step and result: ok, refused (the request is at fault), unavailable (something is away) or failed.",
		}, []string{"step", "result"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "devicekeys_refusals_total", Help: "Calls that were not carried out, by step and stable code.",
		}, []string{"step", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "devicekeys_step_seconds", Help: "Time of a step in the SPP, in seconds; publish includes waiting for the registry.",
			Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10},
		}, []string{"step"}),
		free: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "devicekeys_pool_free", Help: "Identities that wait in the pool, by product line.",
		}, []string{"line"}),
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "devicekeys_publication_seconds", Help: "Time from a device's proof of restoration to the registry's acknowledgement, in seconds.",
			Buckets: []float64{.01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 60, 600, 3600},
		}),
		oldest: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "devicekeys_publication_lag_seconds", Help: "Age of the oldest registry entry that waits, in seconds; 0 if none waits.",
		}),
		outbox: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "devicekeys_outbox_entries", Help: "Registry entries that wait for the sequencer.",
		}),
		aside: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "devicekeys_outbox_set_aside", Help: "Registry entries that the sequencer refused and nobody has dealt with.",
		}),
		setAside: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "devicekeys_outbox_set_aside_total", Help: "Registry entries that this process set aside because the sequencer refused them.",
		}),
		deviceKeys: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "devicekeys_device_keys_cached", Help: "Devices whose keys wait in the HSM for their next step.",
		}),
	}
	r.MustRegister(m.devices, m.refusals, m.seconds, m.free, m.lag, m.oldest, m.outbox, m.aside, m.setAside, m.deviceKeys)
	return m
}

// step counts one call and its time.
func (m *Metrics) step(name string, begun time.Time, err error) {
	m.seconds.WithLabelValues(name).Observe(time.Since(begun).Seconds())
	result := "ok"
	var r *Refusal
	switch {
	case err == nil:
	case !errors.As(err, &r), r.code == CodeInternal:
		result = "failed"
	case r.retry > 0:
		result = "unavailable"
	default:
		result = "refused"
	}
	m.devices.WithLabelValues(name, result).Inc()
	if r != nil {
		m.refusals.WithLabelValues(name, string(r.code)).Inc()
	}
}
