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
	flights    prometheus.Gauge
	incidents  *prometheus.CounterVec // kind
	burned     prometheus.Counter
	skew       prometheus.Gauge
	breaker    prometheus.Gauge
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
		flights: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "devicekeys_devices_in_flight", Help: "Devices that took a step here lately and have more to come: what a stop waits for.",
		}),
		incidents: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "devicekeys_incidents_total", Help: "Incidents that this process met, by kind; the records have them with all facts.",
		}, []string{"kind"}),
		burned: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "devicekeys_reservations_burned_total", Help: "Reservations and unfinished devices that this process burned because nobody went on with them.",
		}),
		skew: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "devicekeys_clock_skew_seconds", Help: "How far the clocks of this machine and of the databases pool and records are apart, in seconds; above 300 nothing is burned for its age.",
		}),
		breaker: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "devicekeys_hsm_breaker_open", Help: "1 while the HSM fails and is not asked, else 0.",
		}),
	}
	r.MustRegister(m.devices, m.refusals, m.seconds, m.free, m.lag, m.oldest, m.outbox, m.aside, m.setAside, m.deviceKeys,
		m.flights, m.incidents, m.burned, m.skew, m.breaker)
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
