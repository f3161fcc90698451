package station_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"

	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/station"
	"github.com/devicekeys/devicekeys/station/stationtest"
)

// refusals: what the SPP's codes stop. A refusal of the station's ends the
// line at once, with the code and the next step, and is not called for again; a
// refusal of one device's lets the line go on.
func refusals(t *testing.T, p *plant) {
	cases := []struct {
		code  string
		class connect.Code
		line  bool // the whole line
	}{
		{"station", connect.CodePermissionDenied, true},
		{"station-expired", connect.CodePermissionDenied, true},
		{"station-revoked", connect.CodePermissionDenied, true},
		{"line", connect.CodePermissionDenied, true},
		{"quota", connect.CodeResourceExhausted, true},
		{"pool-empty", connect.CodeResourceExhausted, true},
		{"tac-range", connect.CodePermissionDenied, false}, // it may be about the identity that one board is to get
		{"contested", connect.CodeFailedPrecondition, false},
		{"out-of-use", connect.CodeFailedPrecondition, false},
		{"unlisted-chip", connect.CodePermissionDenied, false},
		{"attestation", connect.CodePermissionDenied, false},
		{"active", connect.CodeAlreadyExists, false},
		{"internal", connect.CodeInternal, false},
	}
	const devices = 3
	t.Run("all", func(t *testing.T) {
		for _, c := range cases {
			t.Run(c.code, func(t *testing.T) {
				t.Parallel()
				boards := p.boards(t, devices)
				var begins atomic.Int64
				l := p.line(t, 1, func(r http.RoundTripper) http.RoundTripper {
					return refusing{r, func(call string) *connect.Error {
						if call != "Begin" || begins.Add(1) != 2 {
							return nil
						}
						return said(c.class, c.code, "do this", 0)
					}}
				})
				for i, o := range l.Run(t.Context(), fixtures(boards), drain) {
					switch {
					case i == 1:
						if o.Shipped || o.Code != c.code || o.Next != "do this" || !strings.Contains(o.Error, c.code) || station.StopsLine(o.Err) != c.line {
							t.Errorf("%+v", o)
						}
					case i == 0 || !c.line:
						if !o.Shipped || o.Err != nil {
							t.Errorf("%+v", o)
						}
					default:
						if o.Shipped || o.Code != c.code || o.Next != "do this" || !strings.HasPrefix(o.Error, "not begun: ") || o.Record != "" || !station.StopsLine(o.Err) {
							t.Errorf("%+v", o)
						}
					}
				}
				want := int64(devices)
				if c.line {
					want = 2
				}
				if n := begins.Load(); n != want {
					t.Errorf("%d Begins, want %d", n, want)
				}
			})
		}
	})
}

// TestQuota: the SPP's own refusal of a certificate that is used up, and what
// was begun under it goes on.
func TestQuota(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.Stock(t, 8)
	boards := p.boards(t, 6)
	g := stationtest.Grant("line-small")
	g.Quota = 3
	l := p.unprepared(t, g, nil)
	must(t, l.Prepare(t.Context()))
	half := boards[5]
	half.name = "device-half-way"
	dieAt(t, l, half, "before Erase") // the first of three
	shipped, stopped := 0, 0
	for _, o := range l.Run(t.Context(), fixtures(boards), drain) {
		switch {
		case o.Shipped:
			shipped++
		case o.Code == "quota" && o.Next != "":
			stopped++
		default:
			t.Errorf("%+v", o)
		}
	}
	if d, _ := p.newest(t, half); shipped != 3 || stopped != 3 || d.State != records.Shipped {
		t.Errorf("%d shipped, %d not; what was half way is %s", shipped, stopped, d.State)
	}
	if b := p.Batch(t); b.Used != 3 || b.Reserved != 0 {
		t.Errorf("%+v", b)
	}
	if n := p.SPP.Gate.Seen()["Begin"]; n != 4 {
		t.Errorf("%d Begins", n)
	}
}

// journalFails: a journal that takes no page stops the line before a
// flash is erased, at its start as well as in the middle.
func journalFails(t *testing.T, p *plant) {
	boards := p.boards(t, 3)
	l := p.line(t, 1, nil)
	dir := filepath.Join(t.TempDir(), "journal")
	var err error
	l.Journal, err = station.OpenJournal(dir)
	must(t, err)
	blocked := []string{filepath.Join(dir, boards[0].record().String()+".json.new"), filepath.Join(dir, ".trial")}
	for _, name := range blocked {
		must(t, os.Mkdir(name, 0o700))
	}
	if err := l.Prepare(t.Context()); !errors.Is(err, station.ErrJournal) {
		t.Errorf("the line is prepared: %v", err)
	}
	for i, o := range l.Run(t.Context(), fixtures(boards), drain) {
		if o.Shipped || !errors.Is(o.Err, station.ErrJournal) || !station.StopsLine(o.Err) || !strings.Contains(o.Next, dir) || (i > 0) != strings.HasPrefix(o.Error, "not begun: ") {
			t.Errorf("%+v", o)
		}
	}
	if s := boards[0].status(t); s.Identity == "" {
		t.Errorf("the flash was erased: %+v", s)
	}
	for _, name := range blocked {
		must(t, os.RemoveAll(name))
	}
	must(t, l.Prepare(t.Context()))
	for _, o := range l.Run(t.Context(), fixtures(boards), drain) {
		if !o.Shipped {
			t.Errorf("%+v", o)
		}
	}
}

// revoked: a station that is revoked in the middle of a line stops at once, and
// another station finishes what it left.
func revoked(t *testing.T, p *plant) {
	boards := p.boards(t, 4)
	l := p.unprepared(t, stationtest.Grant("line-revoked"), nil)
	must(t, l.Prepare(t.Context()))
	order := records.Order{Operator: "alice", Reason: "stolen"}
	boards[1].at = func(ctx context.Context, point string) error {
		if point != "before Restore" {
			return nil
		}
		_, err := p.Records.Store.Revoke(ctx, "line-revoked", order)
		return err
	}
	for i, o := range l.Run(t.Context(), fixtures(boards), drain) {
		switch {
		case i == 0 && o.Shipped:
		case i > 0 && !o.Shipped && o.Code == "station-revoked" && o.Next != "" && station.StopsLine(o.Err) && (i > 1) == strings.HasPrefix(o.Error, "not begun: "):
		default:
			t.Errorf("%+v", o)
		}
	}
	if err := l.Prepare(t.Context()); !refusedWith(err, "station-revoked") {
		t.Errorf("a revoked station prepares: %v", err)
	}
	boards[1].at = nil
	for _, o := range p.line(t, 1, nil).Run(t.Context(), fixtures(boards), drain) {
		if !o.Shipped {
			t.Errorf("%+v", o)
		}
	}
}

// outOfUse: a device that an operator quarantines on the line stops alone, and
// goes on where it was once it is released.
func outOfUse(t *testing.T, p *plant) {
	boards := p.boards(t, 3)
	l := p.line(t, 1, nil)
	order := records.Order{Operator: "alice", Reason: "found beside the line"}
	dieAt(t, l, boards[0], "before Erase")
	must(t, p.Records.Store.Quarantine(t.Context(), boards[0].record(), order))
	for i, o := range l.Run(t.Context(), fixtures(boards), drain) {
		if i > 0 != o.Shipped || i == 0 && (o.Code != "out-of-use" || o.Next == "" || station.StopsLine(o.Err)) {
			t.Errorf("%+v", o)
		}
	}
	if entries, err := l.Journal.Entries(); err != nil || len(entries) != 1 {
		t.Errorf("the journal forgot it: %+v, %v", entries, err)
	}
	must(t, p.Records.Store.Release(t.Context(), boards[0].record(), order))
	if o := l.Run(t.Context(), fixtures(boards[:1]), drain)[0]; !o.Shipped || !o.Resumed || o.Generation != 1 {
		t.Errorf("%+v", o)
	}
}
