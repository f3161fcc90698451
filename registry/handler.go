package registry

import (
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/devicekeys/devicekeys/identity"
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
	source             Source
	opts               HandlerOptions
	mux                *http.ServeMux
	newest, generation *routeMetrics // of the routes of a record
	cache              *cache
	missing            *cache
	public             PublicSource // nil where the source has none
	limits, directory  *limiter
	metrics            *httpMetrics
	log                *slog.Logger
	logSome            rate.Sometimes // a source that is down says the same thousands of times
	flight             singleflight.Group

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
		limits:    newLimiter(o.Rate, o.Burst, maxNetworks, o.TrustedProxies),
		directory: newLimiter(o.DirectoryRate, o.DirectoryBurst, maxNetworks, o.TrustedProxies),
		mux:       http.NewServeMux(),
	}
	h.directory.total = rate.NewLimiter(rate.Limit(o.DirectoryTotalRate), o.directoryTotalBurst())
	h.public, _ = source.(PublicSource)
	h.metrics = newHTTPMetrics(o.Registerer, h.cache)
	for _, r := range routes {
		m := h.metrics.route(r.path)
		switch r.path {
		case newestPath:
			h.newest = m
		case generationPath:
			h.generation = m
		}
		h.handle(r.method+" "+r.path, m, r.free, func(w http.ResponseWriter, req *http.Request) { r.serve(h, w, req) })
		h.handle(r.path, m, r.free, func(w http.ResponseWriter, req *http.Request) {
			allow := r.method
			if allow == http.MethodGet {
				allow = "GET, HEAD"
			}
			w.Header().Set("Allow", allow)
			problemMethod.write(w, fmt.Sprintf("%.20q is not among %s", req.Method, allow))
		})
	}
	h.handle("/", h.metrics.none, false, func(w http.ResponseWriter, _ *http.Request) {
		problemNoRoute.write(w, "no resource of the registry has this path")
	})
	return h, nil
}

// handle has the mux give requests of a pattern to serve, once they are counted and, unless they
// are free, within their client's limit. The writer is ServeHTTP's.
func (h *Handler) handle(pattern string, m *routeMetrics, free bool, serve http.HandlerFunc) {
	h.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		sw := w.(*statusWriter)
		sw.route = m
		if free || h.admit(sw, r) {
			serve(sw, r)
		}
	})
}

const (
	newestPath     = "/records/{record}"
	generationPath = "/records/{record}/{generation}"
)

// routes are all that the handler serves. The OpenAPI description has the
// same, which a test compares.
var routes = []struct {
	method, path string
	free         bool // not counted against the client's bucket
	serve        func(*Handler, http.ResponseWriter, *http.Request)
}{
	{http.MethodGet, newestPath, false, (*Handler).serveNewest},
	{http.MethodGet, generationPath, false, (*Handler).serveGeneration},
	{http.MethodPost, "/records:lookup", false, (*Handler).serveLookup},
	{http.MethodGet, "/certificates/{record}", false, (*Handler).serveCertificates},
	{http.MethodGet, "/directory/{identity}", false, (*Handler).serveDirectory},
	{http.MethodGet, "/healthz", true, (*Handler).serveHealth},
	{http.MethodGet, "/openapi.json", false, (*Handler).serveOpenAPI},
}

// ServeHTTP counts, limits and answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	sw := &statusWriter{ResponseWriter: w, route: h.metrics.none, begin: time.Now()}
	defer sw.count()
	if record, generation, ok := asked(r); ok {
		if sw.route = h.newest; generation != "" {
			sw.route = h.generation
		}
		if h.admit(sw, r) {
			h.serveRecord(sw, r, record, generation)
		}
		return
	}
	if !clean(r.URL.Path) {
		if h.admit(sw, r) {
			problemNoRoute.write(sw, "the path has empty or dotted parts") // instead of the mux's redirect
		}
		return
	}
	h.mux.ServeHTTP(sw, r)
}

// asked finds at a glance what nearly all requests are: a GET of a record, or of one of its
// generations. To find its route in the mux takes longer than all else that is done for an answer in memory;
// there goes whatever looks unusual, and gets the same answer.
func asked(r *http.Request) (record, generation string, ok bool) {
	const prefix = "/records/"
	p, found := strings.CutPrefix(r.URL.Path, prefix)
	if !found || r.Method != http.MethodGet || r.URL.RawPath != "" || len(p) < recordDigits {
		return "", "", false
	}
	record, rest := p[:recordDigits], p[recordDigits:]
	if strings.ContainsAny(record, "/.") {
		return "", "", false
	}
	if rest == "" {
		return record, "", true
	}
	generation, found = strings.CutPrefix(rest, "/")
	return record, generation, found && generation != "" && !strings.ContainsAny(generation, "/.")
}

// recordDigits is how many digits a record id has.
const recordDigits = 2 * len(identity.RecordID{})

// admit takes a token for a request, or answers that there is none.
func (h *Handler) admit(w *statusWriter, r *http.Request) bool {
	return h.charge(w, r, 1, w.begin)
}

// charge takes tokens from a request's client, or answers that there are none. Those whom the
// configuration names pay nothing.
func (h *Handler) charge(w http.ResponseWriter, r *http.Request, tokens int, now time.Time) bool {
	client := h.limits.client(r)
	if among(client, h.opts.Unlimited) {
		return true
	}
	wait, ok := h.limits.take(client, tokens, now)
	if !ok {
		h.limited(w, wait)
	}
	return ok
}

// clean reports whether path.Clean would leave a path as it is. Nearly every path shows that at a
// glance: an empty or dotted part follows a slash, or is the last.
func clean(p string) bool {
	if strings.HasPrefix(p, "/") && !strings.HasSuffix(p, "/") && !strings.Contains(p, "//") && !strings.Contains(p, "/.") {
		return true
	}
	return path.Clean(p) == p
}

func (h *Handler) limited(w http.ResponseWriter, wait time.Duration) {
	problemLimited.writeRetry(w, wait, fmt.Sprintf("%g requests per second and %d at once are allowed", h.opts.Rate, h.opts.Burst))
}
