package station_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/station"
	"github.com/devicekeys/devicekeys/station/stationtest"
)

// drain is longer than any device takes.
const drain = time.Minute

// TestLine: a whole line with several hands; devices that fail stop alone.
func TestLine(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.Stock(t, 20)
	boards := p.boards(t, 10)
	broken := errors.New("the flash is broken")
	boards[2].at = func(_ context.Context, point string) error {
		if point == "before Erase" {
			return broken
		}
		return nil
	}
	unlisted := newBoard(t, "unlisted")
	twin := boards[4].fixture()
	dark := station.Fixture{Name: "dark", Open: func(context.Context) (station.Device, error) { return nil, errors.New("no current") }}
	escape := boards[0].fixture()
	escape.Name = "../x"
	work := append(fixtures(boards), unlisted.fixture(), dark, escape, twin)

	l := p.line(t, 4, nil)
	var done atomic.Int64
	l.OnDone = func(station.Outcome) { done.Add(1) }
	outcomes := l.Run(t.Context(), work, drain)
	if int(done.Load()) != len(work)-2 {
		t.Errorf("told of %d devices, %d were begun", done.Load(), len(work)-2)
	}
	ids, sequences := map[identity.Identity]bool{}, map[int64]bool{}
	for i, o := range outcomes {
		if o.Device != work[i].Name {
			t.Errorf("outcome %d is of %q, want %q", i, o.Device, work[i].Name)
		}
		if i == 2 || i >= len(boards) {
			if o.Shipped || o.Err == nil || o.Error == "" || o.Sequence != -1 {
				t.Errorf("%s: %+v", o.Device, o)
			}
			continue
		}
		d, _ := p.newest(t, boards[i])
		if !o.Shipped || o.Err != nil || o.Resumed || o.Generation != 1 || o.Record != boards[i].record().String() || d.State != records.Shipped || d.Sequence != o.Sequence {
			t.Errorf("%s: %+v; the records have %s, entry %d", o.Device, o, d.State, d.Sequence)
		}
		for _, s := range station.Steps() {
			if o.Took[s] <= 0 || s.Patent() == "" {
				t.Errorf("%s: step %s took %s", o.Device, s, o.Took[s])
			}
		}
		ids[d.Identity], sequences[o.Sequence] = true, true
		s := boards[i].status(t)
		if !s.Locked || s.Floor != 1 || s.Identity != d.Identity.String() || len(s.Modules) != 2 || s.Modules[0].Name != "boot.bin" {
			t.Errorf("%s: %+v", o.Device, s)
		}
	}
	if len(ids) != 9 || len(sequences) != 9 {
		t.Errorf("%d identities and %d entries for 9 devices", len(ids), len(sequences))
	}

	var step *station.StepError
	if err := outcomes[2].Err; !errors.Is(err, broken) || !errors.As(err, &step) || step.Step != station.StepRestore || step.Device != "device-0003" {
		t.Errorf("the broken device: %v", err)
	}
	var refused *station.RefusedError
	if err := outcomes[10].Err; !errors.As(err, &refused) || refused.Code != "unlisted-chip" || refused.Next() == "" || !errors.As(err, &step) || step.Step != station.StepBegin {
		t.Errorf("the unlisted chip: %v", err)
	}
	if err := outcomes[11].Err; !errors.As(err, &step) || step.Step != station.StepLoad {
		t.Errorf("the dark fixture: %v", err)
	}
	for i, want := range map[int]string{12: "fixture name", 13: "named twice"} {
		if !strings.Contains(outcomes[i].Error, want) {
			t.Errorf("fixture %q: %s", work[i].Name, outcomes[i].Error)
		}
	}

	// Mended, it ships; the others are left alone.
	boards[2].at = nil
	for _, b := range boards {
		b.used()
	}
	outcomes = l.Run(t.Context(), fixtures(boards), drain)
	for i, o := range outcomes {
		if !o.Shipped || !o.Resumed || (o.Sequence == -1) != (i != 2) || o.Generation != 1 {
			t.Errorf("%s again: %+v", o.Device, o)
		}
		if used := boards[i].used(); i != 2 && len(used) != 0 {
			t.Errorf("%s was shipped before and is used again: %q", o.Device, used)
		}
	}
	if b := p.Batch(t); b.Used != 10 || b.Reserved != 0 || b.Burned != 0 {
		t.Errorf("batch: %+v", b)
	}
}

// TestFixtureNames: what a fixture may be called.
func TestFixtureNames(t *testing.T) {
	t.Parallel()
	for name, good := range map[string]bool{
		"device-0001": true, "A": true, "7_b.c-d": true, strings.Repeat("x", 64): true,
		"": false, "../x": false, "a/b": false, `a\b`: false, "..": false, ".hidden": false, "-flag": false, "a b": false, "a\n": false,
		"a\x00": false, "ä": false, strings.Repeat("x", 65): false, "/etc/passwd": false,
	} {
		opened := false
		nothing := errors.New("nothing in it")
		f := station.Fixture{Name: name, Open: func(context.Context) (station.Device, error) { opened = true; return nil, nothing }}
		o := (&station.Line{}).Run(t.Context(), []station.Fixture{f}, drain)[0]
		if opened != good || errors.Is(o.Err, nothing) != good || !good && !strings.Contains(o.Error, "fixture name") {
			t.Errorf("fixture name %q: opened %v, %s", name, opened, o.Error)
		}
	}
}

// boundaries are the moments at which a station may die: before and after each
// use of a device and each call of the SPP.
func boundaries() []string {
	var all []string
	for _, act := range []string{
		"call Status", "WriteROM", "LoadModules", "Hello", "call Begin", "Accept", "call Confirm", "Stored",
		"Erase", "Close", "Restore", "Boot", "Restored", "call Restored", "call Publish", "Published", "call Locked",
	} {
		all = append(all, "before "+act, "after "+act)
	}
	return all
}

// resume stops the station at each boundary in turn and runs it again: the
// device ships once, with the identity that it had.
func resume(t *testing.T, p *plant) {
	points := boundaries()
	boards := p.boards(t, len(points))
	t.Run("at", func(t *testing.T) {
		for i, point := range points {
			t.Run(point, func(t *testing.T) {
				t.Parallel()
				b := boards[i]
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				// The station dies at its first passing of the point: from there
				// on its context is at its end, so nothing else is done.
				var died sync.Once
				at := func(ctx context.Context, have string) (err error) {
					if have == point {
						died.Do(func() {
							cancel()
							<-ctx.Done()
							err = ctx.Err()
						})
					}
					return err
				}
				b.at = at
				l := p.line(t, 1, nil)
				dying := p.line(t, 1, func(r http.RoundTripper) http.RoundTripper { return wire{r, at} })
				dying.Journal = l.Journal
				o := dying.Run(ctx, []station.Fixture{b.fixture()}, 0)[0]
				if o.Shipped || ctx.Err() == nil {
					t.Fatalf("the station did not die: %+v", o)
				}
				if !errors.Is(o.Err, station.ErrStopped) {
					t.Errorf("the outcome does not say that the station was stopped: %v", o.Err)
				}
				before, begun := p.newest(t, b)
				if wasErased := point == "after Erase" || point == "before Restore"; wasErased {
					if s := b.status(t); s.Identity != "" {
						t.Fatalf("the flash is not erased: %+v", s)
					}
					if page, ok, err := l.Journal.Read(b.record()); !ok || err != nil || len(page.Backup) == 0 {
						t.Errorf("the flash is erased and the journal has no page: %v, %v", ok, err)
					}
				}

				b.at = nil
				o = l.Run(t.Context(), []station.Fixture{b.fixture()}, drain)[0]
				after, _ := p.newest(t, b)
				if !o.Shipped || o.Err != nil || after.State != records.Shipped || after.Generation != 1 {
					t.Fatalf("run again: %+v; the records have %s, generation %d", o, after.State, after.Generation)
				}
				if begun && before.Identity != after.Identity {
					t.Errorf("identity %s became %s", before.Identity, after.Identity)
				}
				if begun != (before.State != "") {
					t.Errorf("state %q", before.State)
				}
				if s := b.status(t); !s.Locked || s.Floor != 1 || s.Identity != after.Identity.String() {
					t.Errorf("device: %+v", s)
				}
				if _, ok, err := l.Journal.Read(b.record()); ok || err != nil {
					t.Errorf("a page is left: %v, %v", ok, err)
				}

				// Once more: it was shipped before, and nothing is done to it.
				b.used()
				o = l.Run(t.Context(), []station.Fixture{b.fixture()}, drain)[0]
				if !o.Shipped || !o.Resumed || o.Sequence != -1 || o.Generation != 1 || o.Err != nil {
					t.Errorf("a shipped device run again: %+v", o)
				}
				if used := b.used(); len(used) != 0 {
					t.Errorf("a shipped device was used: %q", used)
				}
			})
		}
	})
}

// TestDevice: what befalls one device or one line, all at one plant.
func TestDevice(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.Stock(t, 400)
	t.Run("all", func(t *testing.T) { // ends when each of them has
		for name, test := range map[string]func(*testing.T, *plant){
			"resume elsewhere": resumeElsewhere, "resume, flash lost": resumeFlashLost,
			"again": again, "resume": resume, "killed": killed, "power cut": powerCut, "recall": recallTest, "two stations": twoStations,
			"refusals": refusals, "revoked": revoked, "out of use": outOfUse, "journal fails": journalFails, "planned waits": plannedWaits, "drain bounded": drainBounded, "prepare": prepare,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, p)
			})
		}
	})
	// All ship in the end but one, of which nothing is left to go on from.
	if b := p.Batch(t); b.Reserved != 1 || b.Burned != 0 || b.Used < int64(len(boundaries())) {
		t.Errorf("batch: %+v", b)
	}
}

// dieAt stops a station at a point of one board's way.
func dieAt(t *testing.T, l *station.Line, b *board, point string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b.at = func(ctx context.Context, have string) error {
		if have != point {
			return nil
		}
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}
	if o := l.Run(ctx, []station.Fixture{b.fixture()}, 0)[0]; o.Shipped || !errors.Is(o.Err, station.ErrStopped) {
		t.Fatalf("the station did not die: %+v", o)
	}
	b.at = nil
}

// resumeElsewhere: a device that lost its flash is restored in whatever
// fixture it comes back, and another one in its old fixture takes nothing from it.
func resumeElsewhere(t *testing.T, p *plant) {
	boards := p.boards(t, 2)
	l := p.line(t, 1, nil)
	dieAt(t, l, boards[0], "before Restore")
	before, _ := p.newest(t, boards[0])
	boards[0].name, boards[1].name = boards[1].name, boards[0].name
	for _, b := range []*board{boards[1], boards[0]} {
		if o := l.Run(t.Context(), []station.Fixture{b.fixture()}, drain)[0]; !o.Shipped {
			t.Errorf("%+v", o)
		}
	}
	if after, _ := p.newest(t, boards[0]); after.Identity != before.Identity {
		t.Errorf("identity %s became %s", before.Identity, after.Identity)
	}
}

// resumeFlashLost: a device that was proven and then lost its flash in the
// fixture is restored once more from the page.
func resumeFlashLost(t *testing.T, p *plant) {
	b := p.boards(t, 1)[0]
	l := p.line(t, 1, nil)
	dieAt(t, l, b, "before Published")
	must(t, b.flash.Erase())
	b.used()
	o := l.Run(t.Context(), []station.Fixture{b.fixture()}, drain)[0]
	if used := b.used(); !o.Shipped || !slices.Contains(used, "Restore") || slices.Contains(used, "Hello") {
		t.Errorf("%+v, by %q", o, used)
	}
}

// again: a shipped device takes its next generation with an unlock
// statement, and not without one.
func again(t *testing.T, p *plant) {
	b := p.boards(t, 1)[0]
	l := p.line(t, 1, nil)
	run := func() station.Outcome { return l.Run(t.Context(), []station.Fixture{b.fixture()}, drain)[0] }
	dieAt(t, l, b, "before Published")
	page, ok, err := l.Journal.Read(b.record())
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	if o := run(); !o.Shipped {
		t.Fatalf("%+v", o)
	}
	first, _ := p.newest(t, b)
	// As if the station had died before it removed the page.
	must(t, l.Journal.Write(page))
	l.Again = true
	var refused *station.RefusedError
	if o := run(); o.Shipped || !errors.As(o.Err, &refused) || refused.Code != "active" {
		t.Fatalf("without an unlock statement: %+v", o)
	}
	raw, err := p.Keys.SignUnlock(t.Context(), identity.Unlock{Realm: stationtest.Realm, Record: b.record(), Next: 2})
	must(t, err)
	must(t, p.Records.Store.Unlock(t.Context(), b.record(), 2, raw, "rework", "operator"))
	// It dies between the SPP's word and its journal, which still has the page
	// of the generation before; and then with the flash erased. The runs that go
	// on need no "again".
	dieAt(t, l, b, "before Stored")
	l.Again = false
	dieAt(t, l, b, "before Restore")
	o := run()
	second, _ := p.newest(t, b)
	if !o.Shipped || !o.Resumed || o.Generation != 2 || second.Identity != first.Identity {
		t.Errorf("%+v; identity %s, was %s", o, second.Identity, first.Identity)
	}
	if s := b.status(t); s.Floor != 2 || !s.Locked {
		t.Errorf("device: %+v", s)
	}
}

// TestDrain: devices in work finish, no new one is begun, and the rest ship in
// the next run.
func TestDrain(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.Stock(t, 8)
	boards := p.boards(t, 8)
	const hands = 2
	l := p.line(t, hands, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var accepted sync.WaitGroup
	accepted.Add(hands)
	for _, b := range boards[:hands] {
		b.at = func(_ context.Context, point string) error {
			if point == "before Accept" {
				accepted.Done()
				accepted.Wait() // both are in work when the line is stopped
				cancel()
			}
			return nil
		}
	}
	shipped := 0
	for i, o := range l.Run(ctx, fixtures(boards), drain) {
		switch {
		case i < hands && o.Shipped && o.Err == nil:
			shipped++
		case i >= hands && !o.Shipped && errors.Is(o.Err, station.ErrStopped) && errors.Is(o.Err, context.Canceled) &&
			strings.HasPrefix(o.Error, "not begun") && o.Sequence == -1 && o.Record == "":
		default:
			t.Errorf("%s: %+v", o.Device, o)
		}
	}
	if b := p.Batch(t); shipped != hands || b.Used != hands || b.Free != 8-hands {
		t.Errorf("%d shipped, batch %+v", shipped, b)
	}
	for _, b := range boards {
		b.at = nil
	}
	for _, o := range l.Run(t.Context(), fixtures(boards), drain) {
		if !o.Shipped {
			t.Errorf("%+v", o)
		}
	}
}

// drainBounded: a device that hangs is left when the drain is over.
func drainBounded(t *testing.T, p *plant) {
	b := p.boards(t, 1)[0]
	l := p.line(t, 1, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b.at = func(ctx context.Context, point string) error {
		if point != "before Boot" {
			return nil
		}
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}
	const short = 300 * time.Millisecond
	begun := time.Now()
	o := l.Run(ctx, []station.Fixture{b.fixture()}, short)[0]
	took := time.Since(begun)
	var step *station.StepError
	if o.Shipped || !errors.Is(o.Err, station.ErrStopped) || !errors.As(o.Err, &step) || step.Step != station.StepRestore {
		t.Errorf("%+v", o)
	}
	if took < short || took > short+10*time.Second {
		t.Errorf("it took %s, the drain is %s", took, short)
	}
	b.at = nil
	if o := l.Run(t.Context(), []station.Fixture{b.fixture()}, drain)[0]; !o.Shipped || !o.Resumed {
		t.Errorf("%+v", o)
	}
}

// prepare: the line does not start with modules that are not the SPP's.
func prepare(t *testing.T, p *plant) {
	whole := map[string]string{"boot.bin": "module boot.bin", "io.bin": "module io.bin"}
	for name, c := range map[string]struct {
		change func(map[string]string)
		reason string
	}{
		"as listed":  {func(map[string]string) {}, ""},
		"more files": {func(m map[string]string) { m["other.bin"] = "x" }, ""},
		"missing":    {func(m map[string]string) { delete(m, "io.bin") }, `"io.bin"`},
		"changed":    {func(m map[string]string) { m["io.bin"] = "Module io.bin" }, "SHA-256"},
		"shorter":    {func(m map[string]string) { m["io.bin"] = "module" }, "size"},
		"longer":     {func(m map[string]string) { m["io.bin"] += "x" }, "size"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{}
			for k, v := range whole {
				files[k] = v
			}
			c.change(files)
			l := p.line(t, 1, nil)
			l.Modules = t.TempDir()
			for k, v := range files {
				must(t, os.WriteFile(filepath.Join(l.Modules, k), []byte(v), 0o600))
			}
			err := l.Prepare(t.Context())
			if (err == nil) != (c.reason == "") || err != nil && !strings.Contains(err.Error(), c.reason) {
				t.Errorf("got %v, want a reason with %q", err, c.reason)
			}
		})
	}
}

// TestSteps: the names stand in reports and metrics, so they do not change by accident.
func TestSteps(t *testing.T) {
	t.Parallel()
	want := []station.Step{"load", "begin", "accept", "confirm", "restore", "publish", "lock"}
	if diff := cmp.Diff(want, station.Steps()); diff != "" {
		t.Error(diff)
	}
	if station.Step("other").Patent() != "" || slices.Contains(want, "other") {
		t.Error("a step that is none has a number")
	}
}
