package hsm

import "github.com/prometheus/client_golang/prometheus"

// Collector gives the module's counters to Prometheus:
//
//	devicekeys_pkcs11_calls_total{function}    calls as the module sees them
//	devicekeys_pkcs11_errors_total{class}      calls that failed, by what that asks for
//	devicekeys_pkcs11_sessions_in_use{token}   of the tokens open now, by token label
//	devicekeys_pkcs11_host_derivations_total   uses of KDF 2 through host memory
//	devicekeys_pkcs11_reopened_total           tokens that were lost and opened again
//	devicekeys_pkcs11_token_lost{token}        1 while a token is lost, or its PIN refused
//
// The counters are the process's: with two handles to the module register one.
func (m *Module) Collector() prometheus.Collector { return collector{m} }

var (
	callsDesc    = prometheus.NewDesc("devicekeys_pkcs11_calls_total", "PKCS#11 calls, as the module sees them.", []string{"function"}, nil)
	errorsDesc   = prometheus.NewDesc("devicekeys_pkcs11_errors_total", "PKCS#11 calls that failed, by class.", []string{"class"}, nil)
	sessionsDesc = prometheus.NewDesc("devicekeys_pkcs11_sessions_in_use", "Sessions in use, by token label.", []string{"token"}, nil)
	reopenedDesc = prometheus.NewDesc("devicekeys_pkcs11_reopened_total", "Tokens that were lost and opened again.", nil, nil)
	lostDesc     = prometheus.NewDesc("devicekeys_pkcs11_token_lost", "1 while a token is lost or its PIN refused, by token label.", []string{"token"}, nil)
	hostDesc     = prometheus.NewDesc("devicekeys_pkcs11_host_derivations_total", "Keys derived by KDF 2 through host memory.", nil, nil)
)

type collector struct{ m *Module }

func (c collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- callsDesc
	ch <- errorsDesc
	ch <- sessionsDesc
	ch <- hostDesc
	ch <- reopenedDesc
	ch <- lostDesc
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	lib := c.m.lib
	for f := range lib.calls {
		ch <- prometheus.MustNewConstMetric(callsDesc, prometheus.CounterValue, float64(lib.calls[f].Load()), functionNames[f])
	}
	for class := Retry; int(class) < classes; class++ {
		ch <- prometheus.MustNewConstMetric(errorsDesc, prometheus.CounterValue, float64(lib.errors[class].Load()), class.String())
	}
	ch <- prometheus.MustNewConstMetric(hostDesc, prometheus.CounterValue, float64(lib.hostDerivations.Load()))
	ch <- prometheus.MustNewConstMetric(reopenedDesc, prometheus.CounterValue, float64(lib.recovery.reopened.Load()))
	// A token opened twice is one line.
	inUse, lost := map[string]int64{}, map[string]float64{}
	c.m.mu.Lock()
	for t := range c.m.tokens {
		inUse[t.info.Label] += t.pool.inUse.Load()
		lost[t.info.Label] = 0
		if t.pool.state() != nil {
			lost[t.info.Label] = 1
		}
	}
	c.m.mu.Unlock()
	for label, is := range lost {
		ch <- prometheus.MustNewConstMetric(lostDesc, prometheus.GaugeValue, is, label)
	}
	for label, n := range inUse {
		ch <- prometheus.MustNewConstMetric(sessionsDesc, prometheus.GaugeValue, float64(n), label)
	}
}
