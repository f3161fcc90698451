package registry

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// httpMetrics counts what the handler does. Labels name routes, codes and
// outcomes, never a record.
type httpMetrics struct {
	requests *prometheus.CounterVec   // route, code
	seconds  *prometheus.HistogramVec // route
	cache    *prometheus.CounterVec   // result: hit, shared, miss

	none *routeMetrics // of requests that no route is for
	hit  func() prometheus.Counter
}

// routeMetrics are those of one route. Finding a metric by its labels costs as much as the rest of a
// cached answer, so each is found once, when it is first needed: a metric that nothing happened to
// isn't there.
type routeMetrics struct {
	seconds func() prometheus.Observer
	counter func(code int) prometheus.Counter
	codes   sync.Map // status code → prometheus.Counter
}

func (m *httpMetrics) route(path string) *routeMetrics {
	return &routeMetrics{
		seconds: sync.OnceValue(func() prometheus.Observer { return m.seconds.WithLabelValues(path) }),
		counter: func(code int) prometheus.Counter { return m.requests.WithLabelValues(path, strconv.Itoa(code)) },
	}
}

// request gives the counter of a status code.
func (m *routeMetrics) request(code int) prometheus.Counter {
	if c, ok := m.codes.Load(code); ok {
		return c.(prometheus.Counter)
	}
	c := m.counter(code)
	m.codes.Store(code, c)
	return c
}

func newHTTPMetrics(reg prometheus.Registerer, c *cache) *httpMetrics {
	m := &httpMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "devicekeys_http_requests_total",
			Help: "HTTP requests answered, by route and status code.",
		}, []string{"route", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "devicekeys_http_request_seconds",
			Help: "Time from a request's header to the end of its answer, by route.",
			// From a cached answer to the limit of a database query.
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
		}, []string{"route"}),
		cache: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "devicekeys_registry_cache_lookups_total",
			Help: "Lookups of single entries: hit was answered from memory, shared by another request's query, miss by its own.",
		}, []string{"result"}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.seconds, m.cache, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "devicekeys_registry_cache_bytes",
			Help: "Weight of the answers kept in memory, in bytes.",
		}, func() float64 { return float64(c.bytes()) }))
	}
	m.none = m.route("none")
	m.hit = sync.OnceValue(func() prometheus.Counter { return m.cache.WithLabelValues("hit") })
	return m
}

// statusWriter remembers what is counted when the answer is given.
type statusWriter struct {
	http.ResponseWriter
	begin  time.Time
	route  *routeMetrics
	status int
}

func (w *statusWriter) count() {
	w.route.request(w.code()).Inc()
	w.route.seconds().Observe(time.Since(w.begin).Seconds())
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) code() int {
	if w.status == 0 {
		return http.StatusOK
	}
	return w.status
}

// Unwrap serves http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
