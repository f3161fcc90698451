package records

import (
	"context"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/identity"
)

// Outbox gives up to limit restored devices whose entry is not yet published
// and was not set aside, oldest first. Several publishers may read it at once:
// the sequencer takes an entry once and answers every sender the same.
func (s *Store) Outbox(ctx context.Context, limit int) ([]Device, error) {
	const query = `select ` + columns + ` from device where state = 'restored' and set_aside is null order by changed limit $1`
	page, _, err := s.page(ctx, query, limit)
	if err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	devices := make([]Device, len(page))
	for i, row := range page {
		if row.err != nil {
			return nil, fmt.Errorf("read the outbox: %w: set it aside to go on with the others", row.err)
		}
		devices[i] = row.Device
	}
	return devices, nil
}

// Waiting tells how many entries wait in the outbox, how many were set aside,
// and since when the oldest waits (zero if none does).
func (s *Store) Waiting(ctx context.Context) (waiting, setAside int64, oldest time.Time, err error) {
	const query = `select count(*) filter (where set_aside is null), count(*) filter (where set_aside is not null),
		coalesce(min(changed) filter (where set_aside is null), 'epoch') from device where state = 'restored'`
	if err := s.prepared.Row(ctx, query, nil, &waiting, &setAside, &oldest); err != nil {
		return 0, 0, time.Time{}, fmt.Errorf("count the outbox: %w", err)
	}
	if waiting == 0 {
		oldest = time.Time{}
	}
	return waiting, setAside, oldest, nil
}

// maxReason bounds reasons, in bytes; longer ones are cut.
const maxReason = 1024

// SetAside takes an entry that the sequencer refused out of the outbox, with
// the reason, so that it blocks no other. The device stays restored: Published
// takes it from there once the cause is mended, Burned if it can't be. The first
// reason stays.
func (s *Store) SetAside(ctx context.Context, record identity.RecordID, g identity.Generation, reason string) error {
	if reason == "" {
		return fmt.Errorf("set aside record %s, generation %d: a reason is needed", record.Short(), g)
	}
	const query = `update device set set_aside = $3 where record_id = $1 and generation = $2 and state = 'restored' and set_aside is null`
	done := func(have Device) bool { return have.State == Restored && have.SetAside != "" }
	_, err := s.step(ctx, "set aside", record, g, done, query, cut(reason, maxReason))
	return err
}

// PutBack returns an entry that was set aside to the outbox. Again is a no-op.
func (s *Store) PutBack(ctx context.Context, record identity.RecordID, g identity.Generation) error {
	const query = `update device set set_aside = null where record_id = $1 and generation = $2 and state = 'restored' and set_aside is not null`
	done := func(have Device) bool { return have.State == Restored || have.State.Ever() }
	_, err := s.step(ctx, "put back", record, g, done, query)
	return err
}
