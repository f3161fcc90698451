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
	mu    sync.Mutex // guards what follows
	next  http.Handler
	calls int           // under way
	idle  chan struct{} // closed when the last of them ends; nil: nobody waits
	shut  bool
	hook  func(point string)
	seen  map[string]int
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

// drain cuts calls that come from now on, as lead ends, and waits for those under way.
func (g *Gate) drain() {
	g.mu.Lock()
	g.next = nil
	idle := make(chan struct{})
	if g.calls == 0 {
		close(idle)
	} else {
		g.idle = idle
	}
	g.mu.Unlock()
	<-idle
}

// enter counts a call and gives where it goes; nil: nowhere.
func (g *Gate) enter(name string) http.Handler {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.seen == nil {
		g.seen = map[string]int{}
	}
	g.seen[name]++
	if g.next != nil {
		g.calls++
	}
	return g.next
}

func (g *Gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.calls--; g.calls == 0 && g.idle != nil {
		close(g.idle)
		g.idle = nil
	}
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
	name := path.Base(r.URL.Path)
	next := g.enter(name)
	if next == nil {
		panic(http.ErrAbortHandler) // the server behind is stopped, this connection just not closed yet
	}
	defer g.leave()
	g.pass("before " + name)
	answer := httptest.NewRecorder()
	next.ServeHTTP(answer, r)
	g.pass("after " + name)
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes()) // a caller that is gone is what some tests want
}
