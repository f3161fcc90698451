package records

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/identity"
)

// Abandon burns a next generation that can't be finished, by an operator's
// order: an earlier one is in the field and keeps the identity. The generation is
// reserved, packaged, confirmed, or restored and set aside. Again is a no-op. It
// matches ErrNotFound, and ErrConflict for any other state, and where nothing is
// in the field: then the identity goes with it, see Burned.
//
// A crash before it leaves the generation on the line; after it the chip may
// take another next generation. The pool has no row of a next generation.
func (s *Store) Abandon(ctx context.Context, record identity.RecordID, g identity.Generation, o Order) error {
	err := s.act(ctx, o, func(tx *sql.Tx) (Ordered, error) {
		changed, err := abandon(ctx, tx, record, g, o.Reason, func(r generation) bool {
			return r.State == Reserved || r.State == Packaged || r.State == Confirmed || r.State == Restored && r.SetAside
		})
		if err != nil || !changed {
			return Ordered{}, err
		}
		return Ordered{Act: ActAbandon, Record: record, Generation: g}, nil
	})
	if err != nil {
		return fmt.Errorf("abandon record %s, generation %d: %w", record.Short(), g, err)
	}
	return nil
}

// AbandonStale is the same by the SPP, for a generation that nobody went on with
// during a reservation's life: reserved, packaged or confirmed only, and no order
// is kept. The reason is cut at 1024 bytes.
func (s *Store) AbandonStale(ctx context.Context, record identity.RecordID, g identity.Generation, reason string) error {
	err := needReason(reason)
	if err == nil {
		err = database.InTx(ctx, s.db, nil, func(tx *sql.Tx) error {
			_, err := abandon(ctx, tx, record, g, cut(reason, maxReason), func(r generation) bool {
				return r.State == Reserved || r.State == Packaged || r.State == Confirmed
			})
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("abandon stale record %s, generation %d: %w", record.Short(), g, err)
	}
	return nil
}

// abandon burns one generation of a record that has an earlier one in the field,
// quarantined or not.
func abandon(ctx context.Context, tx *sql.Tx, record identity.RecordID, g identity.Generation, reason string, from func(generation) bool) (changed bool, err error) {
	all, err := lock(ctx, tx, record)
	if err != nil {
		return false, err
	}
	var target generation
	published := false
	for _, r := range all {
		if r.Number == g {
			target = r
		}
		published = published || r.Number < g && r.Published
	}
	switch {
	case target.Number == 0:
		return false, ErrNotFound
	case !published:
		return false, fmt.Errorf("%w: no earlier generation is in the field", ErrConflict)
	case target.State == Burned:
		return false, nil
	case !from(target), !has(all, func(r generation) bool { return r.Number < g && r.State.InField() }):
		return false, fmt.Errorf("%w: it is %s", ErrConflict, target.State)
	}
	return changes(ctx, tx, `update device set state = 'burned', reason = $3, secrets = `+noSecrets+`, changed = clock_timestamp() where record_id = $1 and generation = $2`,
		record[:], int64(g), reason)
}

// Stale gives up to limit generations on the line that have not gone a step
// further for so long, by the database's clock, oldest first: reserved, packaged
// or confirmed. Rows that don't parse are left out and named, each as a *RowError
// joined to the error, beside the others.
func (s *Store) Stale(ctx context.Context, age time.Duration, limit int) ([]Device, error) {
	// The index of what is on the line answers it: that is never much, and an
	// index by time would cost every step of every device.
	const query = `select ` + columns + ` from device where coalesce(held, state) in ('reserved', 'packaged', 'confirmed', 'restored')
		and state in ('reserved', 'packaged', 'confirmed') and changed < clock_timestamp() - make_interval(secs => $1) order by changed limit $2`
	page, _, err := s.page(ctx, query, age.Seconds(), limit)
	if err != nil {
		return nil, fmt.Errorf("read what is stale: %w", err)
	}
	var devices []Device
	var bad []error
	for _, row := range page {
		if row.err != nil {
			bad = append(bad, row.err)
			continue
		}
		devices = append(devices, row.Device)
	}
	return devices, errors.Join(bad...)
}
