package console

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

// Bounds of every HTTP server. Our requests and answers are small; whoever takes longer is broken or hostile.
const (
	headerTimeout = 5 * time.Second   // a client that trickles its header holds a connection no longer
	readTimeout   = 30 * time.Second  // whole request
	writeTimeout  = 60 * time.Second  // from the end of the header to the end of the answer: it includes the handler's work
	idleTimeout   = 120 * time.Second // a station's next device may come a minute later
	headerLimit   = 64 << 10          // bytes: far above what our clients send

	// DrainTimeout is how long requests under way may still take after a stop: above the slowest provisioning
	// call, below the 90 seconds after which systemd kills.
	DrainTimeout = 20 * time.Second
)

// Listen opens a TCP listener ("127.0.0.1:7001", "[::1]:0"). A server opens all of its listeners before it begins
// to serve, so that an address in use is reported at once.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, Hint(fmt.Errorf("listening on %q: %w", addr, err), "stop the program that listens there, or configure another address")
	case err != nil:
		return nil, fmt.Errorf("listening on %q: %w", addr, err)
	}
	return l, nil
}

// ServeHTTP serves on the listener until ctx is cancelled, then takes no new requests, lets those under way finish
// for at most drain (DrainTimeout where 0), and closes. It owns the listener. Timeouts that s leaves zero are set to
// this package's. With s.TLSConfig it serves TLS and HTTP/2. Requests don't see ctx being cancelled: they are meant
// to finish. The error is nil after a stop in which every request finished; a connection on which none had begun is
// nobody's loss.
func ServeHTTP(ctx context.Context, s *http.Server, l net.Listener, drain time.Duration) error {
	setTimeout(&s.ReadHeaderTimeout, headerTimeout)
	setTimeout(&s.ReadTimeout, readTimeout)
	setTimeout(&s.WriteTimeout, writeTimeout)
	setTimeout(&s.IdleTimeout, idleTimeout)
	setTimeout(&drain, DrainTimeout)
	if s.MaxHeaderBytes == 0 {
		s.MaxHeaderBytes = headerLimit
	}
	var busy connections
	s.ConnState = busy.observe(s.ConnState)
	served := make(chan error, 1)
	go func() {
		if s.TLSConfig != nil {
			served <- s.ServeTLS(l, "", "")
		} else {
			served <- s.Serve(l)
		}
	}()
	select {
	case err := <-served:
		return fmt.Errorf("serving on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	// The caller's context is over; the drain has a time of its own.
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	err := s.Shutdown(bound)
	cutOff := busy.count()
	if err != nil {
		_ = s.Close() // cuts the connections that are left; the error below says so
	}
	<-served
	if err != nil && (cutOff > 0 || !errors.Is(err, context.DeadlineExceeded)) {
		return fmt.Errorf("stopping the server on %s: requests were cut off after %s: %w", l.Addr(), drain, err)
	}
	return nil
}

// connections are those of a server on which a request is under way.
type connections struct {
	mu     sync.Mutex // guards active
	active map[net.Conn]bool
}

// observe is a server's ConnState hook, with the one before called after it.
func (c *connections) observe(next func(net.Conn, http.ConnState)) func(net.Conn, http.ConnState) {
	c.active = map[net.Conn]bool{}
	return func(conn net.Conn, state http.ConnState) {
		c.mu.Lock()
		if state == http.StateActive {
			c.active[conn] = true
		} else {
			delete(c.active, conn)
		}
		c.mu.Unlock()
		if next != nil {
			next(conn, state)
		}
	}
}

func (c *connections) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.active)
}

func setTimeout(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}
