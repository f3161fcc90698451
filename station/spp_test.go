package station_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
	"github.com/devicekeys/devicekeys/station"
	"github.com/devicekeys/devicekeys/station/stationtest"
)

// failover gives a prepared line whose client knows both SPPs of a plant and
// soon looks for the first again.
func (p *plant) failover(t *testing.T, second *stationtest.SPP, hands int) *station.Line {
	t.Helper()
	l := p.unprepared(t, grantOf("line-1"), nil)
	l.Hands = hands
	l.Client = station.NewClient(p.HTTP(t, grantOf("line-1").URI()), p.SPP.URL, second.URL).WithBounds(10*time.Second, 30*time.Second, first, most)
	l.Client.WithProbe(100 * time.Millisecond)
	must(t, l.Prepare(t.Context()))
	return l
}

// TestFailover: the first SPP dies in the middle of a line, and the station goes
// on with the second; when the first is back, so is the station.
func TestFailover(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	const devices = 10
	p.Stock(t, devices+20)
	second := p.AddSPP(t, "spp-2")
	boards := p.boards(t, devices)
	l := p.failover(t, second, 3)
	if n := second.Gate.Seen()["Modules"]; n != 0 {
		t.Errorf("the second SPP was asked %d times while the first was well", n)
	}
	var die sync.Once
	for _, b := range boards[4:] {
		b.at = func(_ context.Context, point string) error {
			if point == "before Accept" {
				die.Do(func() { p.SPP.Cut(t) })
			}
			return nil
		}
	}
	for _, o := range l.Run(t.Context(), fixtures(boards), drain) {
		if !o.Shipped || o.Err != nil || o.Generation != 1 {
			t.Errorf("%+v", o)
		}
	}
	if n := second.Gate.Seen()["Confirm"]; n < 4 {
		t.Errorf("the second SPP saw %d confirmations", n)
	}
	p.SPP.Start(t)
	// Any call has the first one looked at, once in a while.
	var record [32]byte
	before := p.SPP.Gate.Seen()["Status"]
	for begun := time.Now(); p.SPP.Gate.Seen()["Status"] == before; time.Sleep(10 * time.Millisecond) {
		if _, err := l.Client.Status(t.Context(), record[:]); !refusedWith(err, "unknown-device") {
			t.Fatal(err)
		}
		if time.Since(begun) > 20*time.Second {
			t.Fatal("the station did not come back to the first SPP")
		}
	}
	n := second.Gate.Seen()["Status"]
	for range 5 {
		if _, err := l.Client.Status(t.Context(), record[:]); !refusedWith(err, "unknown-device") {
			t.Fatal(err)
		}
	}
	if again := second.Gate.Seen()["Status"]; again != n {
		t.Errorf("back at the first SPP, %d calls went to the second", again-n)
	}
	if b := p.Batch(t); b.Used != devices || b.Reserved != 0 || b.Burned != 0 {
		t.Errorf("%+v", b)
	}
}

func refusedWith(err error, code string) bool {
	var r *station.RefusedError
	return errors.As(err, &r) && r.Code == code
}

// TestFailoverReply: each call in turn is lost at the first SPP, before it was
// carried out and after, and repeated at the second: the device ships once.
func TestFailoverReply(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	var points []string
	for _, call := range []string{"Status", "Begin", "Confirm", "Restored", "Publish", "Locked"} {
		points = append(points, "before "+call, "after "+call)
	}
	p.Stock(t, len(points))
	second := p.AddSPP(t, "spp-2")
	boards := p.boards(t, len(points))
	for i, point := range points {
		// One after the other: the gate is the first SPP's, not the line's.
		t.Run(point, func(t *testing.T) {
			l := p.failover(t, second, 1)
			var lost sync.Once
			p.SPP.Gate.Hook(func(have string) {
				if have == point {
					lose := false
					lost.Do(func() { lose = true })
					if lose {
						panic(http.ErrAbortHandler)
					}
				}
			})
			defer p.SPP.Gate.Hook(nil)
			name := strings.Fields(point)[1]
			n := second.Gate.Seen()[name]
			o := l.Run(t.Context(), []station.Fixture{boards[i].fixture()}, drain)[0]
			if !o.Shipped || o.Err != nil || o.Generation != 1 || o.Resumed {
				t.Errorf("%+v", o)
			}
			if again := second.Gate.Seen()[name]; again == n {
				t.Error("the call was not repeated at the second SPP")
			}
		})
	}
	if b := p.Batch(t); b.Used != int64(len(points)) {
		t.Errorf("%+v", b)
	}
}

// TestRestart: an SPP that stops and starts again at its address is waited for.
func TestRestart(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.Stock(t, 6)
	boards := p.boards(t, 6)
	l := p.line(t, 2, nil)
	started := make(chan time.Time, 1)
	boards[2].at = func(_ context.Context, point string) error {
		if point == "before Hello" {
			p.SPP.Cut(t)
			go func() {
				time.Sleep(500 * time.Millisecond)
				p.SPP.Start(t)
				started <- time.Now()
			}()
		}
		return nil
	}
	var once sync.Once
	var next time.Time
	l.OnDone = func(o station.Outcome) {
		if o.Device == boards[2].name {
			once.Do(func() { next = time.Now() })
		}
	}
	for _, o := range l.Run(t.Context(), fixtures(boards), drain) {
		if !o.Shipped || o.Err != nil {
			t.Errorf("%+v", o)
		}
	}
	t.Logf("a device shipped %s after the SPP had started again", next.Sub(<-started))
}

// TestFailoverAnswers: which answers send a call to the next SPP, and which
// stay with the one that gave them.
func TestFailoverAnswers(t *testing.T) {
	t.Parallel()
	detail := func(code string, after int64) *provisioningrpc.Refusal {
		return &provisioningrpc.Refusal{Code: code, Next: "do this", RetryAfterMs: after}
	}
	for _, c := range []struct {
		name          string
		first, second []func(context.Context) error
		calls         [2]int64
		is            error
		code          string
		detail        string
	}{
		{name: "well", first: list(answers), second: list(answers), calls: [2]int64{1, 0}},
		{name: "stopping", first: list(says(connect.CodeUnavailable, detail("stopping", 60_000))), second: list(answers), calls: [2]int64{1, 1}},
		{name: "its HSM is gone", first: list(says(connect.CodeUnavailable, detail("hsm", 60_000))), second: list(answers), calls: [2]int64{1, 1}},
		{name: "its database is gone", first: list(says(connect.CodeUnavailable, detail("database", 60_000))), second: list(answers), calls: [2]int64{1, 1}},
		{name: "too slow", first: list(says(connect.CodeUnavailable, detail("timeout", 60_000))), second: list(answers), calls: [2]int64{1, 1}},
		{name: "unavailable", first: list(says(connect.CodeUnavailable, nil)), second: list(answers), calls: [2]int64{1, 1}},
		{name: "cut off", first: list(cuts), second: list(answers), calls: [2]int64{1, 1}},
		{name: "silent", first: list(waits), second: list(answers), calls: [2]int64{1, 1}},
		{name: "the device is busy there", first: list(says(connect.CodeUnavailable, detail("busy", 10)), answers), second: list(answers), calls: [2]int64{2, 0}},
		{name: "refused", first: list(says(connect.CodePermissionDenied, detail("line", 0))), second: list(answers), calls: [2]int64{1, 0}, code: "line"},
		{name: "the registry is away", first: list(says(connect.CodeUnavailable, detail("publication", 10))), second: list(answers), calls: [2]int64{1, 0}, code: "publication"},
		{name: "both gone", first: list(cuts), second: list(says(connect.CodeUnavailable, nil)), is: station.ErrUnreachable, detail: "; "},
		{name: "one gone, one without HSM", first: list(cuts), second: list(says(connect.CodeUnavailable, detail("hsm", 10))), is: station.ErrAway, detail: "; "},
		{name: "both without HSM for long", first: list(says(connect.CodeUnavailable, detail("hsm", 60_000))), second: list(says(connect.CodeUnavailable, detail("hsm", 50_000))),
			calls: [2]int64{1, 1}, is: station.ErrAway, detail: "; "},
		{name: "one comes back", first: list(cuts, answers), second: list(cuts)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			one, two := &scripted{script: c.first}, &scripted{script: c.second}
			a, b := one.serve(t), two.serve(t)
			client := station.NewClient(a.Client(), a.URL, b.URL).WithBounds(attempt, patience, first, most)
			client.Logger = slog.New(slog.DiscardHandler)
			_, err := client.Challenge(t.Context(), make([]byte, 32))
			if have := [2]int64{one.calls.Load(), two.calls.Load()}; c.calls != [2]int64{} && have != c.calls {
				t.Errorf("calls %v, want %v", have, c.calls)
			}
			switch {
			case c.is == nil && c.code == "":
				must(t, err)
				before := one.calls.Load() + two.calls.Load()
				// The next call goes where the last one was answered.
				answered := two
				if c.calls[1] == 0 || c.name == "one comes back" {
					answered = one
				}
				n := answered.calls.Load()
				_, err := client.Challenge(t.Context(), make([]byte, 32))
				if all := one.calls.Load() + two.calls.Load(); err != nil || answered.calls.Load() != n+1 || all != before+1 {
					t.Errorf("the next call went elsewhere: %v", err)
				}
			case c.code != "":
				if !refusedWith(err, c.code) {
					t.Errorf("got %v", err)
				}
			default:
				if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.detail) || !strings.Contains(err.Error(), a.URL) || !strings.Contains(err.Error(), b.URL) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
}

func list(script ...func(context.Context) error) []func(context.Context) error { return script }

// TestFailoverTrust: one SPP with a certificate that is no good is passed over;
// where none is trusted, the call ends at once.
func TestFailoverTrust(t *testing.T) {
	t.Parallel()
	ca, other := stationtest.NewAuthority(t), stationtest.NewAuthority(t)
	s := &scripted{script: list(answers)}
	mux := http.NewServeMux()
	mux.Handle(provisioningrpc.NewAssemblyServiceHandler(s))
	good, bad, worse := ca.Serve(t, mux), other.Serve(t, mux), other.Serve(t, mux)
	hc := trusting(t, ca)
	client := station.NewClient(hc, bad.URL, good.URL).WithBounds(10*time.Second, time.Minute, first, most)
	if _, err := client.Challenge(t.Context(), nil); err != nil {
		t.Error(err)
	}
	client = station.NewClient(hc, bad.URL, worse.URL).WithBounds(10*time.Second, time.Minute, first, most)
	begun := time.Now()
	_, err := client.Challenge(t.Context(), nil)
	if took := time.Since(begun); !errors.Is(err, station.ErrTrust) || !station.StopsLine(err) || took > 20*time.Second {
		t.Errorf("got %v after %s", err, took)
	}
}
