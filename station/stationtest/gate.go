package stationtest

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"path"
	"sync"
)

// Gate stands before a server: it can be shut, and its hook sees each call
// before the server does and after, before the caller has the answer.
type Gate struct {
	calls sync.WaitGroup // under way

	mu   sync.Mutex // guards what follows
	next http.Handler
	shut bool
	hook func(point string)
	seen map[string]int
}

// Shut cuts each connection that brings a call, until Open.
func (g *Gate) Shut() { g.set(true) }

// Open lets calls through again.
func (g *Gate) Open() { g.set(false) }

func (g *Gate) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
}

// Hook has f called at "before NAME" and "after NAME" of each call that comes
// from now on, in the call's goroutine; nil ends that.
func (g *Gate) Hook(f func(point string)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hook = f
}

// Seen counts the calls that came to the gate, by name, those that it cut included.
func (g *Gate) Seen() map[string]int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.seen)
}

// lead has the gate stand before another server.
func (g *Gate) lead(next http.Handler) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.next = next
}

func (g *Gate) pass(point string) {
	g.mu.Lock()
	hook, shut := g.hook, g.shut
	g.mu.Unlock()
	if hook != nil {
		hook(point)
	}
	if shut {
		panic(http.ErrAbortHandler) // cuts the connection
	}
}

// ServeHTTP implements http.Handler.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.calls.Add(1)
	defer g.calls.Done()
	name := path.Base(r.URL.Path)
	g.mu.Lock()
	next := g.next
	if g.seen == nil {
		g.seen = map[string]int{}
	}
	g.seen[name]++
	g.mu.Unlock()
	g.pass("before " + name)
	answer := httptest.NewRecorder()
	next.ServeHTTP(answer, r)
	g.pass("after " + name)
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes()) // a caller that is gone is what some tests want
}
