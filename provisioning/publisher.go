package provisioning

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/sequencer"
)

const (
	// outboxBatch is how many entries go in one submission: half of what the
	// sequencer takes, and enough to keep up with any line.
	outboxBatch = 500

	// maxBatchBytes keeps a submission of long entries below the sequencer's
	// limit (registry.MaxSubmission).
	maxBatchBytes = registry.MaxSubmission / 2

	// outboxPoll is how often the outbox is read without a kick: for entries
	// that another process, or this one before a crash, left there.
	outboxPoll = 2 * time.Second

	// submitTimeout bounds one submission. The sequencer commits a batch in tens
	// of milliseconds, and gives one 15 seconds when its database restarts.
	submitTimeout = 20 * time.Second

	// firstBackoff and maxBackoff bound the pause after a failure: doubled each
	// time, drawn from half to the whole so that two SPPs don't meet again. The
	// registry may be away for hours; the entries wait in Postgres.
	firstBackoff = 200 * time.Millisecond
	maxBackoff   = 15 * time.Second

	// ackWriters is how many acknowledgements are written at once: they commit
	// one by one, and Postgres groups what comes together.
	ackWriters = 4

	// useTries and usePause bound the attempts to remove a published identity
	// from the pool: they outlast a lost connection, not a lost server.
	useTries = 5
	usePause = 50 * time.Millisecond
)

// publisher brings registry entries from the outbox to the sequencer, oldest
// first, and wakes who waits for one.
//
// It may stop anywhere: an entry that was submitted is submitted again and gets
// the same answer; one that was noted as published has left the outbox, and if
// the pool still has its identity, house-keeping removes it.
type publisher struct {
	realm     identity.Realm
	name      string
	keys      Keys
	pool      Pool
	records   Records
	sequencer Sequencer
	metrics   *Metrics
	log       *slog.Logger
	wake      chan struct{} // one place: a kick that comes while one is pending is the same kick

	mu      sync.Mutex // guards waiting
	waiting map[deviceID]*waiters
}

type waiters struct {
	done chan struct{} // closed when the device's row has changed
	n    int
}

func newPublisher(c Config) *publisher {
	return &publisher{
		realm: c.Realm, name: c.Name, keys: c.Keys, pool: c.Pool, records: c.Records, sequencer: c.Sequencer,
		metrics: c.Metrics, log: c.Log, wake: make(chan struct{}, 1), waiting: map[deviceID]*waiters{},
	}
}

// kick says that the outbox has something new.
func (p *publisher) kick() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// wait gives a channel that is closed once when the device's entry was
// published or set aside by this process; leave ends the interest.
func (p *publisher) wait(id deviceID) (done <-chan struct{}, leave func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.waiting[id]
	if w == nil {
		w = &waiters{done: make(chan struct{})}
		p.waiting[id] = w
	}
	w.n++
	return w.done, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if w.n--; w.n == 0 && p.waiting[id] == w {
			delete(p.waiting, id)
		}
	}
}

func (p *publisher) tell(id deviceID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := p.waiting[id]; w != nil {
		close(w.done)
		delete(p.waiting, id)
	}
}

// run publishes until ctx ends. The submission under way is then finished, so
// that its acknowledgements are not asked for twice.
func (p *publisher) run(ctx context.Context) {
	backoff := firstBackoff
	for ctx.Err() == nil {
		n, err := p.publish(context.WithoutCancel(ctx))
		pause := outboxPoll
		switch {
		case err != nil:
			pause = backoff/2 + rand.N(backoff/2)
			backoff = min(2*backoff, maxBackoff)
			p.log.WarnContext(ctx, "publishing failed; the entries wait", "error", err, "again_in", pause)
		case n == outboxBatch:
			backoff = firstBackoff
			continue // there is more
		default:
			backoff = firstBackoff
		}
		timer := time.NewTimer(pause)
		wake := p.wake
		if err != nil {
			wake = nil // a kick does not shorten a backoff
		}
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-wake:
		}
		timer.Stop()
	}
}

// publish submits one batch and tells how many entries were in it.
func (p *publisher) publish(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, submitTimeout)
	defer cancel()
	devices, err := p.records.Outbox(ctx, outboxBatch)
	if row := (*records.RowError)(nil); errors.As(err, &row) {
		// A row that nobody can read shall not hold up the others.
		return 0, p.setAside(ctx, records.Device{Record: row.Record, Generation: row.Generation}, err.Error())
	}
	if err != nil || len(devices) == 0 {
		return 0, err
	}
	submission := registry.Submission{Realm: p.realm, Submitter: p.name}
	size := 0
	for i, d := range devices {
		if size += len(d.Entry); size > maxBatchBytes && i > 0 {
			devices = devices[:i]
			break
		}
		submission.Entries = append(submission.Entries, d.Entry)
	}
	payload, err := submission.Encode()
	if err != nil {
		return 0, err
	}
	signed, err := p.keys.SignSubmission(ctx, payload)
	if err != nil {
		return 0, err
	}
	acks, err := p.sequencer.Submit(ctx, signed)
	if err != nil {
		return 0, err
	}
	if len(acks) != len(devices) {
		return 0, fmt.Errorf("the sequencer answered %d of %d entries", len(acks), len(devices))
	}
	// The deadline was for the sequencer. What it acknowledged is noted now, or
	// asked for again.
	note, done := context.WithTimeout(context.WithoutCancel(ctx), submitTimeout)
	defer done()
	var group errgroup.Group
	group.SetLimit(ackWriters)
	for i, ack := range acks {
		group.Go(func() error { return p.noteAck(note, devices[i], ack) })
	}
	return len(devices), group.Wait()
}

// noteAck writes what the sequencer said of one entry.
func (p *publisher) noteAck(ctx context.Context, d records.Device, ack sequencer.Ack) error {
	id := deviceID{d.Record, d.Generation}
	e, err := registry.ParseEntry(d.Entry)
	if err != nil {
		return p.setAside(ctx, d, "the entry in the outbox does not parse: "+err.Error())
	}
	switch {
	case errors.Is(ack.Err, sequencer.ErrConflict), errors.Is(ack.Err, sequencer.ErrRefused):
		return p.setAside(ctx, d, ack.Err.Error())
	case ack.Err != nil:
		return fmt.Errorf("record %s: %w", d.Record.Short(), ack.Err)
	case ack.Record != d.Record || ack.Generation != d.Generation || ack.LeafHash != e.LeafHash():
		// Not what was submitted: believe nothing of it.
		return fmt.Errorf("the sequencer acknowledged something else than the entry of record %s", d.Record.Short())
	}
	// A crash before this leaves the entry in the outbox: it is submitted again
	// and gets the same place.
	err = p.records.Published(ctx, d.Record, d.Generation, ack.Sequence)
	if errors.Is(err, records.ErrConflict) {
		return p.contradicted(ctx, d, ack)
	}
	if err != nil {
		return err
	}
	p.metrics.lag.Observe(time.Since(d.Changed).Seconds())
	p.tell(id)
	// A crash before this leaves the identity reserved in the pool although its
	// device is published: house-keeping ends it. So it would after an error, but
	// only minutes later, and the entry does not come up here again.
	for try := 1; ; try++ {
		err := p.pool.Use(ctx, d.Identity)
		if err == nil || try == useTries {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(usePause):
		}
	}
}

// contradicted looks at a row that did not take its publication: it may not
// come up in every batch from now on.
func (p *publisher) contradicted(ctx context.Context, d records.Device, ack sequencer.Ack) error {
	now, err := p.records.Get(ctx, d.Record, d.Generation)
	if err != nil {
		return err
	}
	if now.State == records.Restored {
		return p.setAside(ctx, d, fmt.Sprintf("the registry has it at %d, its record can't take that", ack.Sequence))
	}
	p.log.ErrorContext(ctx, "the registry has an entry whose record moved on", "record", d.Record.Short(), "generation", d.Generation,
		"state", string(now.State), "sequence", ack.Sequence, "recorded", now.Sequence)
	return nil
}

// setAside takes an entry out of the others' way. Somebody has to look at it.
func (p *publisher) setAside(ctx context.Context, d records.Device, reason string) error {
	p.log.ErrorContext(ctx, "an entry was set aside", "record", d.Record.Short(), "generation", d.Generation, "reason", reason)
	if err := p.records.SetAside(ctx, d.Record, d.Generation, reason); err != nil {
		return err
	}
	p.metrics.setAside.Inc()
	p.tell(deviceID{d.Record, d.Generation})
	return nil
}
