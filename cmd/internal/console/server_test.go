package console_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/prometheus/client_golang/prometheus"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := console.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// patience is how long a test waits for what should happen at once.
const patience = 20 * time.Second

func receive[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("waited %s for %s", patience, what)
		panic("unreachable")
	}
}

// A request under way when the server is told to stop is answered; a new one isn't.
func TestServeHTTPDrains(t *testing.T) {
	t.Parallel()
	l := listen(t)
	ctx, stop := context.WithCancel(t.Context())
	arrived, finish := make(chan bool, 1), make(chan bool)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived <- true
		<-finish
		if r.Context().Err() != nil {
			t.Error("the stop cancelled a request that may finish")
		}
		_, _ = io.WriteString(w, "done")
	})}
	served := make(chan error, 1)
	go func() { served <- console.ServeHTTP(ctx, s, l, 0) }()
	answer := make(chan string, 1)
	go func() {
		r, err := http.Get("http://" + l.Addr().String())
		if err != nil {
			answer <- err.Error()
			return
		}
		defer r.Body.Close()
		body, _ := io.ReadAll(r.Body)
		answer <- string(body)
	}()
	receive(t, arrived, "the request")
	stop()
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			break
		}
		c.Close()
		if time.Since(begun) > patience {
			t.Fatal("a stopping server still accepts connections")
		}
	}
	close(finish)
	if have := receive(t, answer, "the answer"); have != "done" {
		t.Errorf("request under way got %q", have)
	}
	if err := receive(t, served, "the server's end"); err != nil {
		t.Errorf("clean stop: %v", err)
	}
}

// A request that takes longer than the drain is cut off, and the server says so.
func TestServeHTTPCutsOff(t *testing.T) {
	t.Parallel()
	l := listen(t)
	ctx, stop := context.WithCancel(t.Context())
	arrived := make(chan bool, 1)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived <- true
		<-r.Context().Done() // the cut connection
	})}
	served := make(chan error, 1)
	go func() { served <- console.ServeHTTP(ctx, s, l, 50*time.Millisecond) }()
	go func() {
		if r, err := http.Get("http://" + l.Addr().String()); err == nil {
			r.Body.Close()
		}
	}()
	receive(t, arrived, "the request")
	stop()
	err := receive(t, served, "the server's end")
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "cut off after 50ms") {
		t.Errorf("have %v", err)
	}
	if s.ReadHeaderTimeout == 0 || s.ReadTimeout == 0 || s.WriteTimeout == 0 || s.IdleTimeout == 0 || s.MaxHeaderBytes == 0 {
		t.Errorf("a server without bounds: %+v", s)
	}
}

// A connection on which nobody asked for anything doesn't make a stop fail.
func TestServeHTTPIdleConnection(t *testing.T) {
	t.Parallel()
	l := listen(t)
	ctx, stop := context.WithCancel(t.Context())
	opened := make(chan bool, 1)
	s := &http.Server{ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened <- true
		}
	}}
	served := make(chan error, 1)
	go func() { served <- console.ServeHTTP(ctx, s, l, 50*time.Millisecond) }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	receive(t, opened, "the server to see the connection")
	stop()
	if err := receive(t, served, "the server to stop"); err != nil {
		t.Error(err)
	}
}

func TestListenInUse(t *testing.T) {
	t.Parallel()
	l := listen(t)
	defer l.Close()
	_, err := console.Listen(t.Context(), l.Addr().String())
	var next interface{ Next() string }
	if !errors.As(err, &next) || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("have %v", err)
	}
	if err := console.ServeMetrics(t.Context(), l.Addr().String(), prometheus.NewRegistry(), nil); err == nil {
		t.Error("metrics are served on an address in use")
	}
	if _, err := console.Listen(t.Context(), "nowhere"); err == nil {
		t.Error("listens without a port")
	}
	// A listener that breaks ends the server with an error.
	l.Close()
	if err := console.ServeHTTP(t.Context(), &http.Server{}, l, 0); err == nil {
		t.Error("serves on a closed listener")
	}
}

func TestServeMetrics(t *testing.T) {
	t.Parallel()
	if err := console.ServeMetrics(t.Context(), "", nil, nil); err != nil {
		t.Errorf("no address: %v", err)
	}
	l := listen(t)
	addr := l.Addr().String()
	l.Close()
	registry := prometheus.NewRegistry()
	free := prometheus.NewGauge(prometheus.GaugeOpts{Name: "devicekeys_pool_free", Help: "Identities that are free."})
	registry.MustRegister(free)
	free.Set(12)
	sick := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- console.ServeMetrics(ctx, addr, registry, func(ctx context.Context) error {
			if _, ok := ctx.Deadline(); !ok {
				t.Error("a health check without a bound")
			}
			select {
			case err := <-sick:
				return err
			default:
				return nil
			}
		})
	}()
	get := func(path string) (int, string) {
		t.Helper()
		for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			r, err := http.Get("http://" + addr + path)
			if err == nil {
				defer r.Body.Close()
				body, _ := io.ReadAll(r.Body)
				return r.StatusCode, string(body)
			}
			if time.Since(begun) > patience {
				t.Fatal(err)
			}
		}
	}
	if code, body := get("/healthz"); code != 200 || body != "ok\n" {
		t.Errorf("healthy: %d %q", code, body)
	}
	sick <- errors.New("database at 192.0.2.1 is down")
	if code, body := get("/healthz"); code != 503 || strings.Contains(body, "192.0.2.1") {
		t.Errorf("not healthy: %d %q", code, body)
	}
	if code, body := get("/metrics"); code != 200 || !strings.Contains(body, "devicekeys_pool_free 12\n") {
		t.Errorf("metrics: %d %q", code, body)
	}
	if code, _ := get("/debug/pprof/"); code != 404 {
		t.Errorf("pprof is served: %d", code)
	}
	stop()
	if err := receive(t, served, "the server's end"); err != nil {
		t.Errorf("clean stop: %v", err)
	}
}
