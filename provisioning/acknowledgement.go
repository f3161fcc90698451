package provisioning

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry/sequencer"
)

const (
	// ackWriters is how many acknowledgements are written at once: they commit
	// one by one, and Postgres groups what comes together.
	ackWriters = 4

	// maxStrikes is how often one entry may fail alone, while others go through,
	// until it is set aside.
	maxStrikes = 5

	// useTries and usePause bound the attempts to remove a published identity
	// from the pool, useTimeout all of them: they outlast a lost connection, not
	// a lost server.
	useTries   = 5
	usePause   = 50 * time.Millisecond
	useTimeout = 2 * time.Second
)

// noteAll writes what the sequencer said, and tells whether an entry failed
// alone: its strikes are counted. The error is of the databases.
func (p *publisher) noteAll(ctx context.Context, batch []waitingEntry) (failed bool, err error) {
	p.noteFirsts(ctx, batch)
	var group errgroup.Group
	group.SetLimit(ackWriters)
	var poolAway atomic.Bool
	for i := range batch {
		if !batch[i].answered || batch[i].noted {
			continue
		}
		group.Go(func() error {
			w := &batch[i]
			w.err = p.note(ctx, w, &poolAway)
			if w.err != nil && (database.Transient(w.err) || ctx.Err() != nil) {
				return w.err
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return false, err
	}
	for i := range batch {
		w, id := &batch[i], pendingOf(batch[i].Pending)
		if w.err == nil {
			delete(p.strikes, id)
			continue
		}
		failed = true
		if p.strikes[id]++; p.strikes[id] < maxStrikes {
			p.log.WarnContext(ctx, "an entry failed alone; it is tried again", "record", w.Record.Short(), "generation", w.Generation, "error", w.err)
			continue
		}
		if err := p.setAside(ctx, id, w.err.Error()); err != nil {
			return failed, err
		}
	}
	return failed, nil
}

// noteFirsts writes at once what most entries are: the first of their device,
// acknowledged. What it leaves, for whatever reason, is looked at one by one.
func (p *publisher) noteFirsts(ctx context.Context, batch []waitingEntry) {
	var all []records.Publication
	var at []int
	for i := range batch {
		if w := &batch[i]; w.answered && w.Type == 0 && w.Generation == 1 && w.acknowledged() {
			all, at = append(all, records.Publication{Record: w.Record, Sequence: w.ack.Sequence}), append(at, i)
		}
	}
	if len(all) == 0 {
		return
	}
	taken, err := p.records.PublishedAll(ctx, all)
	if err != nil {
		p.log.DebugContext(ctx, "noting publications at once failed; they are noted one by one", "entries", len(all), "error", err)
		return
	}
	var used []identity.Identity
	for k, i := range at {
		if w := &batch[i]; taken[k] {
			w.noted = true
			p.metrics.lag.Observe(max(0, p.now().Sub(w.Since).Seconds()))
			p.tell(deviceID{w.Record, w.Generation})
			used = append(used, w.Identity)
		}
	}
	if len(used) == 0 {
		return
	}
	p.follow()
	// A crash before it leaves identities reserved in the pool whose devices are
	// published, and so does an error: see use.
	bound, cancel := context.WithTimeout(ctx, useTimeout)
	defer cancel()
	if err := p.pool.UseAll(bound, used); err != nil {
		p.log.WarnContext(ctx, "the pool still has published identities; house-keeping removes them", "identities", len(used), "error", err)
	}
}

// follow has the outbox read again for what is due behind entries that were
// published now.
func (p *publisher) follow() {
	if p.follows {
		p.kick()
	}
}

// forgive forgets the strikes of entries that left the outbox by other hands.
func (p *publisher) forgive(all []records.Pending) {
	if len(p.strikes) == 0 || len(all) == outboxBatch {
		return
	}
	there := map[pending]bool{}
	for _, w := range all {
		there[pendingOf(w)] = true
	}
	for id := range p.strikes {
		if !there[id] {
			delete(p.strikes, id)
		}
	}
}

// note writes what the sequencer said of one entry.
func (p *publisher) note(ctx context.Context, w *waitingEntry, poolAway *atomic.Bool) error {
	id, ack := pendingOf(w.Pending), w.ack
	switch {
	case errors.Is(ack.Err, sequencer.ErrConflict), errors.Is(ack.Err, sequencer.ErrRefused):
		return p.setAside(ctx, id, ack.Err.Error())
	case ack.Err != nil:
		return ack.Err
	case !w.acknowledged():
		// Not what was submitted: believe nothing of it.
		return errors.New("the sequencer acknowledged something else than this entry")
	}
	// A crash before this leaves the entry in the outbox: it is submitted again
	// and gets the same place.
	var err error
	if w.Type == 0 {
		err = p.records.Published(ctx, w.Record, w.Generation, ack.Sequence)
	} else {
		err = p.records.Noticed(ctx, w.Record, w.Generation, w.Type, ack.Sequence)
	}
	if errors.Is(err, records.ErrConflict) {
		return p.contradicted(ctx, id, ack, err)
	}
	if err != nil || w.Type != 0 {
		return err
	}
	p.metrics.lag.Observe(max(0, p.now().Sub(w.Since).Seconds()))
	p.tell(id.deviceID)
	p.follow()
	p.use(ctx, w, poolAway)
	return nil
}

// use removes a published identity from the pool. A crash before it leaves the
// identity reserved there although its device is published: house-keeping ends
// it. So it does after an error, minutes later: the pool being away holds up no
// publication.
func (p *publisher) use(ctx context.Context, w *waitingEntry, poolAway *atomic.Bool) {
	if poolAway.Load() {
		return
	}
	bound, cancel := context.WithTimeout(ctx, useTimeout)
	defer cancel()
	for try := 1; ; try++ {
		err := p.pool.Use(bound, w.Identity)
		if err == nil {
			return
		}
		if try == useTries || bound.Err() != nil {
			poolAway.Store(true)
			p.log.WarnContext(ctx, "the pool still has a published identity; house-keeping removes it", "record", w.Record.Short(), "error", err)
			return
		}
		select {
		case <-bound.Done():
		case <-time.After(usePause):
		}
	}
}

// contradicted looks at a row that did not take its publication: it may not
// come up in every batch from now on.
func (p *publisher) contradicted(ctx context.Context, id pending, ack sequencer.Ack, conflict error) error {
	reason := fmt.Sprintf("the registry has it at %d, its record can't take that: %v", ack.Sequence, conflict)
	if id.typ == 0 {
		switch now, err := p.records.Get(ctx, id.Record, id.Generation); {
		case err != nil:
			return err
		case now.State != records.Restored:
			p.log.ErrorContext(ctx, "the registry has an entry whose record moved on", "record", id.Record.Short(), "generation", id.Generation,
				"state", string(now.State), "sequence", ack.Sequence, "recorded", now.Sequence)
			return nil
		}
	}
	return p.setAside(ctx, id, reason)
}

// setAside takes an entry out of the others' way. Somebody has to look at it.
func (p *publisher) setAside(ctx context.Context, id pending, reason string) error {
	p.log.ErrorContext(ctx, "an entry was set aside", "record", id.Record.Short(), "generation", id.Generation, "type", id.typ, "reason", reason)
	err := p.records.SetAside(ctx, id.Record, id.Generation, id.typ, reason)
	if errors.Is(err, records.ErrConflict) {
		return nil // it left the outbox meanwhile
	}
	if err != nil {
		return err
	}
	p.metrics.setAside.Inc()
	p.tell(id.deviceID)
	return nil
}
