package provisioning

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

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

	// submitTimeout bounds one submission. The sequencer commits a batch in tens
	// of milliseconds, and gives one 15 seconds when its database restarts.
	submitTimeout = 20 * time.Second

	// maxSplits bounds the submissions of one round that are made to find an
	// entry for which the sequencer has no answer: enough for two of them among
	// outboxBatch.
	maxSplits = 40
)

// publish submits one batch and tells whether there may be more at once. An
// error means that the registry, or what leads to it, is away.
func (p *publisher) publish(ctx context.Context) (more bool, err error) {
	bound, cancel := context.WithTimeout(ctx, submitTimeout)
	defer cancel()
	read := time.Now()
	there, err := p.records.Outbox(bound, outboxBatch)
	if row := (*records.RowError)(nil); errors.As(err, &row) {
		// A row that nobody can read shall not hold up the others.
		return false, p.setAside(bound, pending{deviceID: deviceID{row.Record, row.Generation}}, err.Error())
	}
	if err != nil {
		return false, err
	}
	all := p.ours(there, read, len(there) < outboxBatch)
	var batch []waitingEntry
	size := 0
	for _, w := range all {
		e, err := registry.ParseEntry(w.Entry)
		if err == nil && (e.Record != w.Record || e.Generation != w.Generation || w.Type != 0 && registry.EntryType(w.Type) != e.Type) {
			err = errors.New("it is another record's, generation's or type's")
		}
		if err != nil {
			if err := p.setAside(bound, pendingOf(w), "the entry in the outbox does not read: "+err.Error()); err != nil {
				return false, err
			}
			continue
		}
		if size += len(w.Entry); size > maxBatchBytes && len(batch) > 0 {
			break
		}
		batch = append(batch, waitingEntry{Pending: w, entry: e})
	}
	more = len(there) == outboxBatch && len(all) > 0 || len(batch) < len(all)
	if len(batch) == 0 {
		p.forgive(there)
		return more, nil
	}
	splits := maxSplits
	away := p.submit(bound, batch, &splits)
	if !slices.ContainsFunc(batch, func(w waitingEntry) bool { return w.answered }) {
		return false, errors.Join(away, batch[0].err) // nothing says that it is one entry's fault
	}
	// The deadline was for the sequencer. What it acknowledged is noted now, or
	// asked for again.
	note, done := context.WithTimeout(ctx, submitTimeout)
	defer done()
	failed, err := p.noteAll(note, batch)
	p.forgive(there)
	if err = errors.Join(err, away); err != nil {
		return false, err
	}
	return more && !failed, nil // what failed is tried again after a pause, not at once
}

// waitingEntry is one entry of a batch on its way.
type waitingEntry struct {
	records.Pending
	entry    registry.Entry
	answered bool // ack is the sequencer's word
	ack      sequencer.Ack
	noted    bool  // the databases have it
	err      error // why this entry failed alone
}

// acknowledged tells whether the sequencer says that it has this very entry.
func (w *waitingEntry) acknowledged() bool {
	a := w.ack
	return a.Err == nil && a.Record == w.Record && a.Generation == w.Generation && a.Type == w.entry.Type && a.LeafHash == w.entry.LeafHash()
}

// submit brings a batch to the sequencer and fills in what it says of each
// entry. Where the sequencer can be asked and yet has no answer for the batch,
// the batch is halved, down to the entry whose fault it is, so that one does not
// hold up the others. An error means that it can't be asked.
func (p *publisher) submit(ctx context.Context, batch []waitingEntry, splits *int) error {
	*splits--
	err := p.send(ctx, batch)
	switch {
	case err == nil:
		return nil
	case !oneEntrys(err), *splits <= 0 && len(batch) > 1:
		return err
	case len(batch) == 1:
		batch[0].err = err
		return nil
	}
	half := len(batch) / 2
	if err := p.submit(ctx, batch[:half], splits); err != nil {
		return err
	}
	return p.submit(ctx, batch[half:], splits)
}

// oneEntrys tells whether a submission may have failed through one of its
// entries: the sequencer refused to read it, or its answer does not read.
func oneEntrys(err error) bool {
	var key *keyError
	var rpc *connect.Error
	switch {
	case errors.As(err, &key), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return false
	case errors.As(err, &rpc):
		return rpc.Code() == connect.CodeInvalidArgument
	}
	return true
}

func (p *publisher) send(ctx context.Context, batch []waitingEntry) error {
	s := p.from
	for _, w := range batch {
		s.Entries = append(s.Entries, w.Pending.Entry)
	}
	payload, err := s.Encode()
	if err != nil {
		return err
	}
	signed, err := p.keys.SignSubmission(ctx, payload)
	if err != nil {
		return err
	}
	acks, err := p.sequencer.Submit(ctx, signed)
	if err != nil {
		return err
	}
	if len(acks) != len(batch) {
		return fmt.Errorf("the sequencer answered %d of %d entries", len(acks), len(batch))
	}
	for i := range batch {
		batch[i].ack, batch[i].answered = acks[i], true
	}
	return nil
}
