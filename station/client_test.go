package station_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
	"github.com/devicekeys/devicekeys/station"
	"github.com/devicekeys/devicekeys/station/stationtest"
)

// scripted is an SPP at the wire that answers Challenge call after call as its
// script says, and the last way from then on.
type scripted struct {
	provisioningrpc.UnimplementedAssemblyServiceHandler
	script []func(ctx context.Context) error
	calls  atomic.Int64
	at     []time.Time // of each call; one call at a time
}

func (s *scripted) Challenge(ctx context.Context, _ *connect.Request[provisioningrpc.ChallengeRequest]) (*connect.Response[provisioningrpc.ChallengeResponse], error) {
	n := int(s.calls.Add(1)) - 1
	s.at = append(s.at, time.Now())
	if err := s.script[min(n, len(s.script)-1)](ctx); err != nil {
		return nil, err
	}
	return connect.NewResponse(&provisioningrpc.ChallengeResponse{Challenge: bytes.Repeat([]byte{7}, 32)}), nil
}

func answers(context.Context) error { return nil }

func says(code connect.Code, detail *provisioningrpc.Refusal) func(context.Context) error {
	return func(context.Context) error {
		err := connect.NewError(code, errors.New("the reason"))
		if detail != nil {
			d, _ := connect.NewErrorDetail(detail) // ours: it can't fail
			err.AddDetail(d)
		}
		return err
	}
}

// cuts ends the connection in the middle of the answer.
func cuts(context.Context) error { panic(http.ErrAbortHandler) }

// waits answers after the caller's attempt has ended.
func waits(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

func (s *scripted) serve(t *testing.T) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(provisioningrpc.NewAssemblyServiceHandler(s))
	server := httptest.NewUnstartedServer(mux)
	server.EnableHTTP2 = true
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

// Bounds that show everything within seconds, and in which a busy machine gets
// a handshake done.
const (
	attempt  = 2 * time.Second
	patience = 6 * time.Second
	first    = 5 * time.Millisecond
	most     = 20 * time.Millisecond
)

func quick(t *testing.T, server *httptest.Server) *station.Client {
	t.Helper()
	return station.NewClient(server.Client(), server.URL).WithBounds(attempt, patience, first, most)
}

// TestCall: which answers are repeated, and what becomes of the others.
func TestCall(t *testing.T) {
	t.Parallel()
	detail := func(after int64) *provisioningrpc.Refusal {
		return &provisioningrpc.Refusal{Code: "some-code", Next: "do this", RetryAfterMs: after}
	}
	type outcome struct {
		calls int64 // 0: several
		is    error // nil with code "": the call succeeds
		code  string
		next  string
	}
	for _, c := range []struct {
		name   string
		script []func(context.Context) error
		want   outcome
	}{
		{"answered at once", []func(context.Context) error{answers}, outcome{calls: 1}},
		{"unavailable, then there", []func(context.Context) error{says(connect.CodeUnavailable, nil), says(connect.CodeAborted, nil), answers}, outcome{calls: 3}},
		{"deadline, then there", []func(context.Context) error{says(connect.CodeDeadlineExceeded, nil), answers}, outcome{calls: 2}},
		{"busy with detail, then there", []func(context.Context) error{says(connect.CodeUnavailable, detail(10)), answers}, outcome{calls: 2}},
		{"stopping, then restarted", []func(context.Context) error{says(connect.CodeUnavailable, &provisioningrpc.Refusal{Code: "stopping", RetryAfterMs: 10}), cuts, answers}, outcome{calls: 3}},
		{"without HSM, then with", []func(context.Context) error{says(connect.CodeUnavailable, &provisioningrpc.Refusal{Code: "hsm", RetryAfterMs: 10}), answers}, outcome{calls: 2}},
		{"conflict that passes", []func(context.Context) error{says(connect.CodeAlreadyExists, detail(10)), answers}, outcome{calls: 2}},
		{"answer cut off, then there", []func(context.Context) error{cuts, cuts, answers}, outcome{calls: 3}},
		{"no answer in time, then there", []func(context.Context) error{waits, answers}, outcome{calls: 2}},

		{"refused", []func(context.Context) error{says(connect.CodePermissionDenied, detail(0))}, outcome{calls: 1, code: "some-code", next: "do this"}},
		{"refused as unavailable, no use trying", []func(context.Context) error{says(connect.CodeUnavailable, detail(0))}, outcome{calls: 1, code: "some-code", next: "do this"}},
		{"invalid", []func(context.Context) error{says(connect.CodeInvalidArgument, detail(0))}, outcome{calls: 1, code: "some-code", next: "do this"}},
		{"not found", []func(context.Context) error{says(connect.CodeNotFound, detail(0))}, outcome{calls: 1, code: "some-code", next: "do this"}},
		{"pool empty", []func(context.Context) error{says(connect.CodeResourceExhausted, detail(0))}, outcome{calls: 1, code: "some-code", next: "do this"}},
		{"failed precondition", []func(context.Context) error{says(connect.CodeFailedPrecondition, nil)}, outcome{calls: 1, code: "failed_precondition"}},
		{"internal, said by the SPP", []func(context.Context) error{says(connect.CodeInternal, nil)}, outcome{calls: 1, code: "internal"}},
		{"unknown, said by the SPP", []func(context.Context) error{says(connect.CodeUnknown, nil)}, outcome{calls: 1, code: "unknown"}},
		{"unimplemented", []func(context.Context) error{says(connect.CodeUnimplemented, nil)}, outcome{calls: 1, code: "unimplemented"}},

		{"the registry is away", []func(context.Context) error{says(connect.CodeUnavailable, &provisioningrpc.Refusal{Code: "publication", Next: "do this", RetryAfterMs: 10})}, outcome{calls: 1, code: "publication", next: "do this"}},

		{"unavailable for ever", []func(context.Context) error{says(connect.CodeUnavailable, nil)}, outcome{is: station.ErrUnreachable, next: "see that the SPP runs"}},
		{"cut off for ever", []func(context.Context) error{cuts}, outcome{is: station.ErrUnreachable, next: "see that the SPP runs"}},
		{"silent for ever", []func(context.Context) error{waits}, outcome{is: station.ErrUnreachable, next: "see that the SPP runs"}},
		{"busy for ever", []func(context.Context) error{says(connect.CodeUnavailable, detail(10))}, outcome{is: station.ErrAway, next: "do this"}},
		{"busy for longer than it is worth", []func(context.Context) error{says(connect.CodeUnavailable, detail(60_000))}, outcome{calls: 1, is: station.ErrAway, next: "do this"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := &scripted{script: c.script}
			client := quick(t, s.serve(t))
			begun := time.Now()
			challenge, err := client.Challenge(t.Context(), make([]byte, 32))
			took := time.Since(begun)
			n := s.calls.Load()
			if c.want.calls > 0 && n != c.want.calls || c.want.calls == 0 && n < 2 {
				t.Errorf("%d calls were made, want %d", n, c.want.calls)
			}
			// Bounded: the last attempt may begin just before patience ends.
			if limit := patience + attempt + 10*time.Second; took > limit {
				t.Errorf("it took %s, at most %s is allowed", took, limit)
			}
			if c.want.is == nil && c.want.code == "" {
				if err != nil || len(challenge) != 32 {
					t.Errorf("got %d bytes, %v", len(challenge), err)
				}
				return
			}
			if err == nil {
				t.Fatal("no error")
			}
			var refused *station.RefusedError
			if errors.As(err, &refused) != (c.want.code != "") {
				t.Fatalf("got %v (%T)", err, err)
			}
			if c.want.is != nil && !errors.Is(err, c.want.is) {
				t.Errorf("got %v, want %v", err, c.want.is)
			}
			if c.want.code != "" && (refused.Refused() != c.want.code || !strings.Contains(refused.Error(), "the reason")) {
				t.Errorf("refused %q: %q, want code %q", refused.Refused(), refused, c.want.code)
			}
			var next interface{ Next() string }
			if !errors.As(err, &next) || !strings.HasPrefix(next.Next(), c.want.next) {
				t.Errorf("the next step of %v is not %q", err, c.want.next)
			}
		})
	}
}

// TestCallRetryAfter: what the SPP asks for is the least pause.
func TestCallRetryAfter(t *testing.T) {
	t.Parallel()
	const after = 150 * time.Millisecond
	busy := says(connect.CodeUnavailable, &provisioningrpc.Refusal{Code: "busy", RetryAfterMs: after.Milliseconds()})
	s := &scripted{script: []func(context.Context) error{busy, busy, answers}}
	if _, err := quick(t, s.serve(t)).Challenge(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < len(s.at); i++ {
		if pause := s.at[i].Sub(s.at[i-1]); pause < after {
			t.Errorf("pause %d was %s, the SPP asked for %s", i, pause, after)
		}
	}
}

// TestCallCancelled: a cancelled call ends at once with its context's cause, in
// an attempt as well as between two.
func TestCallCancelled(t *testing.T) {
	t.Parallel()
	cause := errors.New("the shift is over")
	for name, script := range map[string]func(context.Context) error{
		"in an attempt": waits,
		"in a pause":    says(connect.CodeUnavailable, &provisioningrpc.Refusal{Code: "busy", RetryAfterMs: 60_000}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &scripted{script: []func(context.Context) error{script}}
			client := quick(t, s.serve(t)).WithBounds(time.Minute, 10*time.Minute, first, most)
			ctx, cancel := context.WithCancelCause(t.Context())
			go func() {
				for s.calls.Load() == 0 && ctx.Err() == nil {
					time.Sleep(time.Millisecond)
				}
				cancel(cause)
			}()
			begun := time.Now()
			if _, err := client.Challenge(ctx, nil); !errors.Is(err, cause) {
				t.Errorf("got %v, want %v", err, cause)
			}
			if took := time.Since(begun); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
			if n := s.calls.Load(); n != 1 {
				t.Errorf("%d calls", n)
			}
		})
	}
}

// TestCallNobody: an SPP that is not there is waited for, and found when it comes.
func TestCallNobody(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := l.Addr().String()
	must(t, l.Close())
	client := station.NewClient(&http.Client{}, "http://"+address).WithBounds(attempt, 20*time.Second, first, most)
	s := &scripted{script: []func(context.Context) error{answers}}
	mux := http.NewServeMux()
	mux.Handle(provisioningrpc.NewAssemblyServiceHandler(s))
	server := &http.Server{Handler: mux}
	defer server.Close()
	started := make(chan error, 1)
	time.AfterFunc(100*time.Millisecond, func() {
		l, err := net.Listen("tcp", address)
		started <- err
		if err == nil {
			_ = server.Serve(l) // until Close
		}
	})
	_, err = client.Challenge(t.Context(), nil)
	must(t, errors.Join(<-started, err))
}

// TestCallDistrust: certificates that do not fit are no matter of patience.
func TestCallDistrust(t *testing.T) {
	t.Parallel()
	ca, other := stationtest.NewAuthority(t), stationtest.NewAuthority(t)
	s := &scripted{script: []func(context.Context) error{answers}}
	mux := http.NewServeMux()
	mux.Handle(provisioningrpc.NewAssemblyServiceHandler(s))
	server := ca.Serve(t, mux)
	plain := httptest.NewServer(mux)
	t.Cleanup(plain.Close)
	good := tls.Config{RootCAs: ca.Pool, ServerName: "example.com", Certificates: []tls.Certificate{ca.Issue(t, time.Hour)}}
	for _, c := range []struct {
		name   string
		url    string
		change func(*tls.Config)
		fails  bool
	}{
		{"as it should be", server.URL, func(*tls.Config) {}, false},
		{"the SPP's CA is another", server.URL, func(c *tls.Config) { c.RootCAs = other.Pool }, true},
		{"the SPP's name is another", server.URL, func(c *tls.Config) { c.ServerName = "example.org" }, true},
		{"no certificate", server.URL, func(c *tls.Config) { c.Certificates = nil }, true},
		{"the station's CA is another", server.URL, func(c *tls.Config) { c.Certificates = []tls.Certificate{other.Issue(t, time.Hour)} }, true},
		{"the station's certificate expired", server.URL, func(c *tls.Config) { c.Certificates = []tls.Certificate{ca.Issue(t, -time.Minute)} }, true},
		{"the peer is no SPP", server.URL, func(c *tls.Config) {
			c.VerifyConnection = func(tls.ConnectionState) error { return errors.New("the peer is something else") }
		}, true},
		{"no TLS there", strings.Replace(plain.URL, "http:", "https:", 1), func(*tls.Config) {}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			config := good.Clone()
			c.change(config)
			transport := station.NewTransport(config, 1)
			t.Cleanup(transport.CloseIdleConnections)
			client := station.NewClient(&http.Client{Transport: transport}, c.url).WithBounds(10*time.Second, time.Minute, first, most)
			begun := time.Now()
			_, err := client.Challenge(t.Context(), nil)
			if c.fails != errors.Is(err, station.ErrTrust) || !c.fails && err != nil {
				t.Errorf("got %v", err)
			}
			if took := time.Since(begun); took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// TestTransportDeadConnection: a connection that dies without a word does not
// swallow the attempts that follow.
func TestTransportDeadConnection(t *testing.T) {
	t.Parallel()
	ca := stationtest.NewAuthority(t)
	s := &scripted{script: []func(context.Context) error{answers}}
	mux := http.NewServeMux()
	mux.Handle(provisioningrpc.NewAssemblyServiceHandler(s))
	server := ca.Serve(t, mux)
	cable := newCable(t, server.Listener.Addr().String())
	transport := station.NewTransport(&tls.Config{RootCAs: ca.Pool, ServerName: "example.com", Certificates: []tls.Certificate{ca.Issue(t, time.Hour)}}, 1)
	t.Cleanup(transport.CloseIdleConnections)
	client := station.NewClient(&http.Client{Transport: transport}, "https://"+cable.address).WithBounds(2*time.Second, 40*time.Second, first, most)
	_, err := client.Challenge(t.Context(), nil)
	must(t, err)
	cable.pull()
	begun := time.Now()
	_, err = client.Challenge(t.Context(), nil)
	must(t, err)
	t.Logf("answered %s after the cable was pulled", time.Since(begun))
	if cable.connections() < 2 {
		t.Error("the dead connection answered")
	}
}

// cable is a connection that can be pulled: what was open stays open and
// carries nothing more.
type cable struct {
	address string
	pulled  atomic.Int64 // connections up to this number are dead
	count   atomic.Int64
}

func newCable(t *testing.T, to string) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	c := &cable{address: l.Addr().String()}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			n := c.count.Add(1)
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			context.AfterFunc(ctx, func() { _, _ = in.Close(), out.Close() })
			go c.carry(n, in, out)
			go c.carry(n, out, in)
		}
	}()
	return c
}

func (c *cable) carry(n int64, from io.Reader, to io.WriteCloser) {
	b := make([]byte, 4096)
	for {
		k, err := from.Read(b)
		if c.pulled.Load() >= n {
			if err != nil {
				return
			}
			continue
		}
		if err != nil {
			_ = to.Close()
			return
		}
		if _, err := to.Write(b[:k]); err != nil {
			return
		}
	}
}

func (c *cable) pull()              { c.pulled.Store(c.count.Load()) }
func (c *cable) connections() int64 { return c.count.Load() }
