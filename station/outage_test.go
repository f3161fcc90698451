package station_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/station"
	"github.com/devicekeys/devicekeys/station/stationtest"
)

// shortPatience ends the waiting of a line whose registry stays away.
const shortPatience = time.Second

// TestRegistry: what befalls a line whose registry is away, one test after the
// other, since it is everybody's.
func TestRegistry(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.Stock(t, 40)
	for _, c := range []struct {
		name  string
		test  func(*testing.T, *plant)
		ships int64
	}{{"away", registryAway, 12}, {"back", registryBack, 9}, {"stop", parkedStop, 4}, {"board swap", boardSwap, 2}} {
		before := p.Batch(t)
		t.Run(c.name, func(t *testing.T) { c.test(t, p) })
		// The pool hears of a publication just after the station.
		var after pool.Batch
		for begun := time.Now(); time.Since(begun) < 10*time.Second; time.Sleep(10 * time.Millisecond) {
			if after = p.Batch(t); after.Reserved == 0 {
				break
			}
		}
		if after.Used-before.Used != c.ships || after.Reserved != 0 || after.Burned != 0 {
			t.Errorf("%s: %+v became %+v", c.name, before, after)
		}
	}
}

// registryAway: assembly goes on while the registry is away. Every device
// is restored and proven and parked, switched off, with its page; the next run
// ships them all, and so does one with an empty journal.
func registryAway(t *testing.T, p *plant) {
	const devices = 12
	boards := p.boards(t, devices)
	l := p.line(t, 3, nil)
	l.Patience = shortPatience
	var told atomic.Int64
	l.OnDone = func(station.Outcome) { told.Add(1) }
	p.Registry.Shut()
	asked := p.SPP.Gate.Seen()["Publish"]
	for _, o := range l.Run(t.Context(), fixtures(boards), drain) {
		var step *station.StepError
		if o.Shipped || !o.Parked || !errors.Is(o.Err, station.ErrParked) || o.Next == "" || o.Code != "publication" || o.Sequence != -1 || o.Generation != 1 ||
			!strings.Contains(o.Error, "restored, waits for the registry; run the station again") ||
			!errors.As(o.Err, &step) || step.Step != station.StepPublish || station.StopsLine(o.Err) {
			t.Errorf("%+v", o)
		}
	}
	if told.Load() != devices {
		t.Errorf("told of %d devices of %d", told.Load(), devices)
	}
	// One device asks for all: those that follow the first are not all asked for.
	if n := p.SPP.Gate.Seen()["Publish"] - asked; n == 0 || n >= 3*devices {
		t.Errorf("publication was asked for %d times", n)
	}
	entries, err := l.Journal.Entries()
	if err != nil || len(entries) != devices {
		t.Errorf("the journal has %d devices, %v", len(entries), err)
	}
	for _, b := range boards {
		if b.opened {
			t.Errorf("%s is still switched on", b.name)
		}
		if d, _ := p.newest(t, b); d.State != records.Restored {
			t.Errorf("%s is %s", b.name, d.State)
		}
	}
	p.Registry.Open()
	l.Patience = time.Minute // the SPP may wait a while before it tries again
	other := p.line(t, 2, nil)
	outcomes := slices.Concat(l.Run(t.Context(), fixtures(boards[:6]), drain), other.Run(t.Context(), fixtures(boards[6:]), drain))
	for _, o := range outcomes {
		if !o.Shipped || o.Parked || !o.Resumed || o.Err != nil || o.Sequence < 0 {
			t.Errorf("%+v", o)
		}
	}
}

// registryBack: devices that were parked are taken up in the same run once
// the registry is back, also one whose flash was lost meanwhile, and the hands
// went on with others before.
func registryBack(t *testing.T, p *plant) {
	const devices = 9
	boards := p.boards(t, devices)
	l := p.line(t, 2, nil)
	l.Patience = time.Minute
	p.Registry.Shut()
	// The last device to begin finds the others parked and brings the registry back.
	boards[devices-1].at = func(_ context.Context, point string) error {
		if point == "before Hello" {
			restored := 0
			for _, b := range boards[:devices-1] {
				if d, _ := p.newest(t, b); d.State == records.Restored {
					restored++
				}
			}
			if restored < devices-2 { // the other hand has one in work
				t.Errorf("%d devices are restored when the last one begins", restored)
			}
			if err := boards[1].flash.Erase(); err != nil {
				return err
			}
			p.Registry.Open()
		}
		return nil
	}
	noted := 0
	for _, o := range l.Run(t.Context(), fixtures(boards), drain) {
		if !o.Shipped || o.Parked || o.Resumed || o.Err != nil || o.Sequence < 0 || o.Took[station.StepPublish] <= 0 {
			t.Errorf("%+v", o)
		}
		noted += len(o.Notes)
	}
	if noted != 1 {
		t.Errorf("%d notes, the flash of one device was lost", noted)
	}
	for _, b := range boards {
		if s := b.status(t); !s.Locked || s.Floor != 1 {
			t.Errorf("%s: %+v", b.name, s)
		}
	}
	if entries, err := l.Journal.Entries(); err != nil || len(entries) != 0 {
		t.Errorf("left in the journal: %+v, %v", entries, err)
	}
}

// parkedStop: a station that is stopped while devices are parked says that
// they wait, and of the others that they were not begun.
func parkedStop(t *testing.T, p *plant) {
	boards := p.boards(t, 4)
	l := p.line(t, 1, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p.Registry.Shut()
	boards[2].at = func(_ context.Context, point string) error {
		if point == "before Hello" {
			cancel()
		}
		return nil
	}
	for i, o := range l.Run(ctx, fixtures(boards), drain) {
		if want := i < 3; o.Parked != want || errors.Is(o.Err, station.ErrParked) != want || errors.Is(o.Err, station.ErrStopped) == want {
			t.Errorf("%+v", o)
		}
	}
	p.Registry.Open()
	boards[2].at = nil
	l.Patience = time.Minute
	for _, o := range l.Run(t.Context(), fixtures(boards), drain) {
		if !o.Shipped {
			t.Errorf("%+v", o)
		}
	}
}

// plannedWaits: a board that has to wait for another one's scrap entry is
// parked before it has an identity, and begun again.
func plannedWaits(t *testing.T, p *plant) {
	for name, c := range map[string]struct {
		refused int64 // Begins that are told to wait
		ships   bool
	}{"for a while": {3, true}, "for ever": {1 << 40, false}} {
		t.Run(name, func(t *testing.T) {
			boards := p.boards(t, 2)
			var begins atomic.Int64
			l := p.line(t, 1, func(r http.RoundTripper) http.RoundTripper {
				return refusing{r, func(call string) *connect.Error {
					if call != "Begin" || begins.Add(1) > c.refused {
						return nil
					}
					return said(connect.CodeUnavailable, "publication", "wait", 20*time.Millisecond)
				}}
			})
			l.Patience = shortPatience
			for _, o := range l.Run(t.Context(), fixtures(boards), drain) {
				if o.Shipped != c.ships || o.Parked == c.ships || errors.Is(o.Err, station.ErrParked) == c.ships || o.Resumed {
					t.Errorf("%+v", o)
				}
				if !c.ships && (!strings.Contains(o.Error, "begin: waits for the registry") || strings.Contains(o.Error, "restored")) {
					t.Errorf("%s", o.Error)
				}
			}
			if n := begins.Load(); n > 60 {
				t.Errorf("%d Begins", n)
			}
		})
	}
}

// boardSwap: the new board of a swap waits, before it has an identity, until the
// registry knows that the old one is scrapped, and begins in the same run.
func boardSwap(t *testing.T, p *plant) {
	boards := p.boards(t, 3)
	old, fresh, other := boards[0], boards[1], boards[2]
	l := p.line(t, 1, nil)
	l.Patience = time.Minute
	if o := l.Run(t.Context(), fixtures(boards[:1]), drain)[0]; !o.Shipped {
		t.Fatalf("%+v", o)
	}
	before, _ := p.newest(t, old)
	p.Registry.Shut()
	order := records.Order{Operator: "alice", Reason: "board cracked"}
	must(t, p.Records.Store.License(t.Context(), audit.Event{Kind: audit.Registry, Key: "dev-identity-signing", Record: old.record(), Generation: 1, Actor: "operator alice", Note: order.Reason}))
	scrap := registry.Entry{Realm: stationtest.Realm, Type: registry.Scrap, Record: old.record(), Generation: 1}
	var err error
	scrap.Statement, err = p.Keys.SignRegistryStatement(t.Context(), scrap.Leaf())
	must(t, err)
	entry, err := scrap.Encode()
	must(t, err)
	must(t, p.Records.Store.Scrap(t.Context(), old.record(), 1, entry, order))
	_, err = p.Records.Store.Plan(t.Context(), old.record(), fresh.record(), order)
	must(t, err)
	// The other device finds the new board waiting, and brings the registry back.
	other.at = func(_ context.Context, point string) error {
		if point == "before Hello" {
			if n := fresh.used(); !slices.Contains(n, "Hello") || slices.Contains(n, "Accept") || fresh.opened {
				t.Errorf("the new board was used: %q; it is switched on: %v", n, fresh.opened)
			}
			p.Registry.Open()
		}
		return nil
	}
	for _, o := range l.Run(t.Context(), fixtures(boards[1:]), drain) {
		if !o.Shipped || o.Parked || o.Resumed || o.Err != nil {
			t.Errorf("%+v", o)
		}
	}
	if d, _ := p.newest(t, fresh); d.Identity != before.Identity || d.State != records.Shipped {
		t.Errorf("the new board is %s, %s, the old one was %s", d.Identity, d.State, before.Identity)
	}
}
