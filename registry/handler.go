package registry

import (
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
)

const (
	// sourceTimeout bounds a lookup in the source: a primary-key read takes
	// below a millisecond, so whatever takes longer than this is not coming.
	sourceTimeout = 3 * time.Second
	// missingBytes bounds the cache of negative answers, so that a flood of
	// guesses drives no real answer out.
	missingBytes = 4 << 20
	// healthLife is how long the source's health is taken as known.
	healthLife = time.Second
	// batchPerToken is how many records of a batch count as one request.
	batchPerToken = 10
)

// Handler serves a registry over HTTP. It is safe for concurrent use and
// holds no goroutine.
type Handler struct {
	source  Source
	opts    HandlerOptions
	mux     *http.ServeMux
	cache   *cache
	missing *cache
	limits  *limiter
	metrics *httpMetrics
	log     *slog.Logger
	logSome rate.Sometimes // a source that is down says the same thousands of times
	flight  singleflight.Group

	healthMu  sync.Mutex // guards the two below
	healthErr error
	healthAt  time.Time
}

// NewHandler makes the handler.
func NewHandler(source Source, o HandlerOptions) (*Handler, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	h := &Handler{
		source: source, opts: o, log: o.Log, logSome: rate.Sometimes{Interval: time.Second},
		cache: newCache(o.CacheBytes), missing: newCache(missingBytes),
		limits: newLimiter(o.Rate, o.Burst, maxAddresses, o.TrustedProxies),
		mux:    http.NewServeMux(),
	}
	h.metrics = newHTTPMetrics(o.Registerer, h.cache)
	for _, r := range routes {
		h.mux.HandleFunc(r.method+" "+r.path, func(w http.ResponseWriter, req *http.Request) { r.serve(h, w, req) })
		h.mux.HandleFunc(r.path, func(w http.ResponseWriter, req *http.Request) {
			allow := r.method
			if allow == http.MethodGet {
				allow = "GET, HEAD"
			}
			w.Header().Set("Allow", allow)
			problemMethod.write(w, fmt.Sprintf("%.20q is not among %s", req.Method, allow))
		})
	}
	h.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		problemNoRoute.write(w, "no resource of the registry has this path")
	})
	return h, nil
}

// routes are all that the handler serves. The OpenAPI description has the
// same, which a test compares.
var routes = []struct {
	method, path string
	free         bool // not counted against the client's bucket
	serve        func(*Handler, http.ResponseWriter, *http.Request)
}{
	{http.MethodGet, "/records/{record}", false, (*Handler).serveNewest},
	{http.MethodGet, "/records/{record}/{generation}", false, (*Handler).serveGeneration},
	{http.MethodPost, "/records:lookup", false, (*Handler).serveLookup},
	{http.MethodGet, "/healthz", true, (*Handler).serveHealth},
	{http.MethodGet, "/openapi.json", false, (*Handler).serveOpenAPI},
}

// ServeHTTP counts, limits and answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	begin := time.Now()
	sw := &statusWriter{ResponseWriter: w}
	route := "none"
	defer func() {
		h.metrics.requests.WithLabelValues(route, strconv.Itoa(sw.code())).Inc()
		h.metrics.seconds.WithLabelValues(route).Observe(time.Since(begin).Seconds())
	}()
	_, pattern := h.mux.Handler(r)
	free := false
	for _, known := range routes {
		if strings.TrimPrefix(pattern, known.method+" ") == known.path {
			route, free = known.path, known.free
		}
	}
	if !free {
		if wait, ok := h.limits.take(h.limits.client(r), 1, begin); !ok {
			h.limited(sw, wait)
			return
		}
	}
	if path.Clean(r.URL.Path) != r.URL.Path {
		problemNoRoute.write(sw, "the path has empty or dotted parts") // instead of the mux's redirect
		return
	}
	h.mux.ServeHTTP(sw, r)
}

func (h *Handler) limited(w http.ResponseWriter, wait time.Duration) {
	problemLimited.writeRetry(w, wait, fmt.Sprintf("%g requests per second and %d at once are allowed", h.opts.Rate, h.opts.Burst))
}
