package sequencer

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the sequencer. Labels name outcomes, never a record or submitter.
type metrics struct {
	entries      *prometheus.CounterVec // result
	submissions  *prometheus.CounterVec // code
	batchEntries prometheus.Histogram
	batchSeconds prometheus.Histogram
	unknown      prometheus.Counter
	head         prometheus.Gauge
	queueBytes   prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		entries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "devicekeys_sequencer_entries_total",
			Help: "Entries answered: durable, duplicate (stood already), conflict (another stands in its place), refused.",
		}, []string{"result"}),
		submissions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "devicekeys_sequencer_submissions_total",
			Help: "Submissions answered, by RPC code.",
		}, []string{"code"}),
		batchEntries: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "devicekeys_sequencer_batch_entries",
			Help:    "Entries judged in one transaction.",
			Buckets: []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000},
		}),
		batchSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "devicekeys_sequencer_batch_seconds",
			Help:    "Time to make a batch durable, retries included.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
		unknown: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "devicekeys_sequencer_unknown_commits_total",
			Help: "Commits whose outcome had to be found out by reading.",
		}),
		head: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "devicekeys_sequencer_head_entries",
			Help: "Entries in the registry, as far as this sequencer knows.",
		}),
		queueBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "devicekeys_sequencer_queue_bytes",
			Help: "Submissions waiting or being written, in bytes.",
		}),
	}
	for _, r := range results {
		m.entries.WithLabelValues(string(r)) // present from the start, at 0
	}
	if reg != nil {
		reg.MustRegister(m.entries, m.submissions, m.batchEntries, m.batchSeconds, m.unknown, m.head, m.queueBytes)
	}
	return m
}
