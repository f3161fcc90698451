package provisioning_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning"
	"github.com/devicekeys/devicekeys/provisioning/records"
	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
)

// clock is the hand on an SPP's clock.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time                { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) set(d time.Duration)           { c.ahead.Store(int64(d)) }
func (c *clock) config(s *provisioning.Config) { s.Now = c.now }

// age makes all that stands in the records and the pool older.
func (l *line) age(t testing.TB, by string) {
	t.Helper()
	_, err := l.records.AsSuperuser().Exec(`update device set changed = changed - $1::interval`, by)
	must(t, err)
	_, err = l.pool.AsSuperuser().Exec(`update waiting set reserved = reserved - $1::interval where reserved is not null`, by)
	must(t, err)
}

// TestStale: what nobody went on with for a reservation's life is burned: a
// reservation without a device, and devices before their proof. A next generation
// leaves its device the identity; what is further on, or younger, is left alone.
func TestStale(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	ids := l.stock(t, 0, 10)
	ctx := t.Context()
	l.front.set(nil)
	field := on(l.station(t), l.device(t, true))
	must(t, field.run(ctx, 0))
	l.unlock(t, field.record(), 2)
	must(t, field.run(ctx, 3))
	l.front.set(away)
	packaged, confirmed, restored := on(l.station(t), l.device(t, true)), on(l.station(t), l.device(t, true)), on(l.station(t), l.device(t, true))
	must(t, packaged.run(ctx, 1))
	must(t, confirmed.run(ctx, 3))
	must(t, restored.run(ctx, 5))
	unclaimed := l.device(t, true).chip.ID().RecordID()
	reserved, err := l.pool.Store.Reserve(ctx, "phone", nil, nil, unclaimed, 1)
	must(t, err)

	l.age(t, "167 hours")
	before := l.effects(t)
	must(t, provisioning.BurnStale(l.spp.Assembly, ctx))
	if diff := cmp.Diff(before, l.effects(t)); diff != "" {
		t.Errorf("something young was burned (-before +after):\n%s", diff)
	}
	l.age(t, "2 hours")
	young := on(l.station(t), l.device(t, true))
	must(t, young.run(ctx, 1))
	for range 2 {
		must(t, provisioning.BurnStale(l.spp.Assembly, ctx))
	}
	for name, c := range map[string]struct {
		f    *fixture
		want string
	}{"packaged": {packaged, "burned"}, "confirmed": {confirmed, "burned"}, "restored": {restored, "restored"}, "young": {young, "packaged"}, "next generation": {field, "burned"}} {
		if s := c.f.status(t).State; s != c.want {
			t.Errorf("%s is %s, want %s", name, s, c.want)
		}
	}
	kept, err := l.records.Store.InField(ctx, field.record())
	must(t, err)
	known, err := l.records.Store.Known(ctx, ids)
	must(t, err)
	if kept.Identity != ids[0] || kept.Generation != 1 || known[ids[0].Value()] == "burned" || known[reserved.Identity.Value()] != "burned" {
		t.Errorf("in the field %s, generation %d; known: %v", kept.Identity, kept.Generation, known)
	}
	if e := l.effects(t); e.Burned != 3 || e.Reserved != 2 {
		t.Errorf("%+v", e)
	}
	if n := l.spp.value(t, "devicekeys_reservations_burned_total"); n != 4 {
		t.Errorf("%v were burned", n)
	}
	// The line goes on: with new identities, with the device in the field after
	// another statement, with what was restored.
	l.front.set(nil)
	refused(t, confirmed.confirm(ctx), connect.CodeFailedPrecondition, provisioning.CodeState)
	for _, f := range []*fixture{packaged, confirmed} {
		must(t, f.finish(ctx, 0))
		if f.begun.Generation != 2 {
			t.Errorf("generation %d", f.begun.Generation)
		}
	}
	l.unlock(t, field.record(), 3)
	must(t, field.finish(ctx, 0))
	must(t, restored.finish(ctx, 5))
	must(t, young.finish(ctx, 1))
}

// TestStaleCrash: a crash between the records and the pool is ended by the
// next round.
func TestStaleCrash(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 3)
	ctx := t.Context()
	f := on(l.station(t), l.device(t, true))
	must(t, f.run(ctx, 1))
	_, err := l.pool.Store.Reserve(ctx, "phone", nil, nil, identity.RecordID{1}, 1)
	must(t, err)
	l.spp.stop()
	l.age(t, "200 hours")
	l.spp = l.start(t, func(c *provisioning.Config) { c.Pool = unburning{c.Pool} })
	if err := provisioning.BurnStale(l.spp.Assembly, ctx); err == nil {
		t.Error("the pool's failure went unseen")
	}
	if e := l.effects(t); e.Burned != 0 || e.Reserved != 2 || e.States[records.Burned] != 1 {
		t.Errorf("%+v", e)
	}
	l.spp.stop()
	l.spp = l.start(t)
	eventually(t, "both are burned in the pool", func() bool { e := l.effects(t); return e.Burned == 2 && e.Reserved == 0 })
}

// unburning is a pool that is away when something is to be burned.
type unburning struct{ provisioning.Pool }

func (unburning) Burn(context.Context, identity.Identity, string) error { return errHSM }

// TestClockJumps: a clock that jumps, either way, burns nothing, and while it is
// wrong nothing that is old is burned either; the line goes on where times do
// not matter, and in full once the clock is right.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 4)
	ctx := t.Context()
	c := &clock{}
	l.spp.stop()
	l.spp = l.start(t, c.config)
	f := on(l.station(t), l.device(t, true))
	must(t, f.run(ctx, 3))
	old := on(l.station(t), l.device(t, true))
	must(t, old.run(ctx, 1))
	_, err := l.records.AsSuperuser().Exec(`update device set changed = changed - interval '30 days' where record_id = $1`, old.begun.RecordId)
	must(t, err)
	for _, jump := range []time.Duration{10 * 365 * 24 * time.Hour, -10 * 365 * 24 * time.Hour, 6 * time.Minute, -6 * time.Minute} {
		c.set(jump)
		before := l.effects(t)
		if err := provisioning.BurnStale(l.spp.Assembly, ctx); err == nil || !strings.Contains(err.Error(), "apart") {
			t.Errorf("clock ahead by %s: %v", jump, err)
		}
		if diff := cmp.Diff(before, l.effects(t)); diff != "" {
			t.Errorf("clock ahead by %s: something changed (-before +after):\n%s", jump, diff)
		}
		if skew := l.spp.value(t, "devicekeys_clock_skew_seconds"); skew < 300 || skew > jump.Abs().Seconds()+60 {
			t.Errorf("clock ahead by %s: a skew of %v s", jump, skew)
		}
		_, err := f.station.Confirm(ctx, connect.NewRequest(f.confirmRequest()))
		if jump > time.Hour { // past the station's certificate
			refused(t, err, connect.CodePermissionDenied, provisioning.CodeExpired)
		} else {
			must(t, err)
		}
	}
	// A challenge of a moment that lies ahead now is not one of ours.
	c.set(time.Minute)
	must(t, f.finish(ctx, 3))
	ch, err := f.station.Challenge(ctx, connect.NewRequest(&provisioningrpc.ChallengeRequest{RecordId: f.begun.RecordId}))
	must(t, err)
	mac, err := f.device.Prove(ctx, [32]byte(ch.Msg.Challenge))
	must(t, err)
	for _, c2 := range []struct {
		jump time.Duration
		ok   bool
	}{{-time.Minute, false}, {4 * time.Minute, false}, {time.Minute, true}} {
		c.set(c2.jump)
		_, err := f.station.Prove(ctx, connect.NewRequest(&provisioningrpc.ProveRequest{RecordId: f.begun.RecordId, Challenge: ch.Msg.Challenge, Mac: mac}))
		if c2.ok {
			must(t, err)
		} else {
			refused(t, err, connect.CodeFailedPrecondition, provisioning.CodeChallenge)
		}
	}
	// Within the limit, what is old is burned.
	must(t, provisioning.BurnStale(l.spp.Assembly, ctx))
	if s := old.status(t).State; s != "burned" {
		t.Errorf("the old device is %s", s)
	}
	// A time that no certificate can say.
	c.set(-80 * 365 * 24 * time.Hour)
	s := provisioning.Station{Grant: stationGrant(), NotAfter: time.Now().Add(time.Hour)}
	d := l.device(t, true)
	if _, err := l.spp.Begin(ctx, s, d.hello(t, keypackage.SuiteAttested)); err == nil {
		t.Error("a device was begun before 1970")
	}
}
