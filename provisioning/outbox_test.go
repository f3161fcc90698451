package provisioning_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/sequencer"
)

// TestPoisonedEntry: an entry that does not read is set aside with the reason,
// and the ones after it go out; an operator puts it back once it is mended.
func TestPoisonedEntry(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 3)
	ctx := t.Context()
	l.front.set(away)
	var devices []*fixture
	for range 3 {
		f := on(l.station(t), l.device(t, true))
		must(t, f.run(ctx, 5))
		devices = append(devices, f)
	}
	poisoned, swapped := devices[0], devices[1]
	entries := map[*fixture][]byte{}
	super := l.records.AsSuperuser()
	for _, f := range devices {
		d, err := l.records.Store.Newest(ctx, f.record())
		must(t, err)
		entries[f] = d.Entry
	}
	write := func(f *fixture, entry []byte) {
		_, err := super.Exec(`update device set entry = $2 where record_id = $1`, f.begun.RecordId, entry)
		must(t, err)
	}
	write(poisoned, []byte("no entry"))
	write(swapped, entries[devices[2]])
	l.front.set(nil)
	must(t, devices[2].finish(ctx, 5))
	for _, f := range []*fixture{poisoned, swapped} {
		_, err := retried(ctx, f.publish)
		refused(t, err, connect.CodeFailedPrecondition, provisioning.CodeSetAside)
	}
	aside, err := l.records.Store.Aside(ctx)
	must(t, err)
	if len(aside) != 2 || aside[0].Reason == "" || aside[0].Record != poisoned.record() {
		t.Errorf("set aside: %+v", aside)
	}
	for _, f := range []*fixture{poisoned, swapped} {
		write(f, entries[f])
		must(t, l.records.Store.PutBack(ctx, f.record(), 1, 0, order))
		eventually(t, "the entry goes out", func() bool { return f.publish(ctx) == nil })
		must(t, f.finish(ctx, 6))
	}
}

// choking is a sequencer that has no answer for a submission with one record's
// entry in it.
type choking struct {
	provisioning.Sequencer
	on  identity.RecordID
	err error
}

func (c choking) Submit(ctx context.Context, submission []byte) ([]sequencer.Ack, error) {
	s, _, err := registry.UnverifiedSubmission(submission)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(s.Entries, func(raw []byte) bool {
		e, err := registry.ParseEntry(raw)
		return err == nil && e.Record == c.on
	}) {
		return nil, c.err
	}
	return c.Sequencer.Submit(ctx, submission)
}

// TestChokingEntry: one entry for which the sequencer has no answer at all is
// found by halving, the others go out, and it is set aside in the end. Alone it is
// not judged: the sequencer may be at fault.
func TestChokingEntry(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	const n = 7
	l.stock(t, 0, 2*n)
	ctx := t.Context()
	l.spp.stop() // nobody publishes yet
	l.front.set(away)
	l.spp = l.start(t)
	var devices []*fixture
	var group errgroup.Group
	for range n {
		f := on(l.station(t), l.device(t, true))
		devices = append(devices, f)
		group.Go(func() error { return f.run(ctx, 5) })
	}
	must(t, group.Wait())
	choke := devices[n/2]
	l.spp.stop()
	l.front.set(nil)
	l.spp = l.start(t, func(c *provisioning.Config) {
		c.Sequencer = choking{c.Sequencer, choke.record(), connect.NewError(connect.CodeInvalidArgument, errors.New("no idea"))}
	})
	for _, f := range devices {
		f.station = l.station(t)
		if f != choke {
			must(t, f.finish(ctx, 5))
		}
	}
	refused(t, choke.publish(ctx), connect.CodeUnavailable, provisioning.CodePublication)
	if _, aside, _, err := l.records.Store.Waiting(ctx); err != nil || aside != 0 {
		t.Errorf("%d set aside, %v: it failed alone", aside, err)
	}
	// With others that go through it is its own fault, a few times.
	eventually(t, "it is set aside", func() bool {
		must(t, on(l.station(t), l.device(t, true)).finish(ctx, 0))
		_, aside, _, err := l.records.Store.Waiting(ctx)
		must(t, err)
		return aside == 1
	})
	refused(t, choke.publish(ctx), connect.CodeFailedPrecondition, provisioning.CodeSetAside)
}

// TestPoolAway: the pool's database being away holds up no publication, and
// house-keeping ends what is left there.
func TestPoolAway(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 2)
	ctx := t.Context()
	l.spp.stop()
	l.spp = l.start(t, func(c *provisioning.Config) { c.Pool = unusing{c.Pool} })
	for range 2 {
		must(t, on(l.station(t), l.device(t, true)).run(ctx, 0))
	}
	if e := l.effects(t); e.Reserved != 2 || e.States[records.Shipped] != 2 {
		t.Errorf("%+v", e)
	}
	l.spp.stop()
	l.age(t, "1 hour")
	l.spp = l.start(t)
	eventually(t, "the pool forgot both", func() bool { e := l.effects(t); return e.Used == 2 && e.Reserved == 0 })
}

// unusing is a pool that is away when an identity was published.
type unusing struct{ provisioning.Pool }

func (unusing) Use(context.Context, identity.Identity) error { return errHSM }

func (unusing) UseAll(context.Context, []identity.Identity) error {
	return errors.New("the pool is away")
}
