package records

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/identity"
)

// scrapType is the registry's number of a scrap entry.
const scrapType = 3

// Scrap takes a record out of use for good. All that is on the line, in the
// field or quarantined becomes scrapped, and so does the newest generation
// whatever it was, so that Newest tells it. The identity is released: only a
// board swap (Plan) gives it to another chip.
//
// g is the generation that the registry's scrap entry is for: the newest that was
// ever published, and entry is that entry, encoded, with its signed statement; it
// waits in the outbox from the same transaction on. Where none was ever
// published, g is the newest generation and entry is nil. The same again is a
// no-op, and the first entry stays.
//
// It matches ErrNotFound; ErrConflict where g is another one, and where an entry of
// the device waits for the registry, also one held by a quarantine: it may be
// there by now, so first it is published, or set aside.
//
// A crash before it leaves at most a statement that nobody saw. A crash after it
// leaves the entry in the outbox; and where nothing was ever published, a
// reservation in the pool, which house-keeping ends with pool.Use: the identity
// was given out for good.
func (s *Store) Scrap(ctx context.Context, record identity.RecordID, g identity.Generation, entry []byte, o Order) error {
	err := s.act(ctx, o, func(tx *sql.Tx) (Ordered, error) { return scrap(ctx, tx, record, g, entry, o) })
	if err != nil {
		return fmt.Errorf("scrap record %s, generation %d: %w", record.Short(), g, err)
	}
	return nil
}

func scrap(ctx context.Context, tx *sql.Tx, record identity.RecordID, g identity.Generation, entry []byte, o Order) (Ordered, error) {
	all, err := lock(ctx, tx, record)
	if err != nil {
		return Ordered{}, err
	}
	last, published := all[0].Number, false
	for _, r := range all {
		if r.Published {
			last, published = r.Number, true
			break
		}
	}
	switch {
	case g != last:
		return Ordered{}, fmt.Errorf("%w: the generation to scrap is %d", ErrConflict, last)
	case scrapped(all):
		return Ordered{}, nil
	case has(all, func(r generation) bool { return r.was() == Restored && !r.SetAside }):
		return Ordered{}, fmt.Errorf("%w: its entry waits for the registry: scrap it once that is published; release it first if it is quarantined", ErrConflict)
	case published && len(entry) == 0:
		return Ordered{}, errors.New("it was published, so the registry's scrap entry is needed")
	case !published && len(entry) > 0:
		return Ordered{}, errors.New("it was never published, so the registry takes no scrap entry")
	}
	var planned bool
	if err := tx.QueryRowContext(ctx, `select exists (select from plan where record_id = $1 and taken is null and dropped is null)`, record[:]).Scan(&planned); err != nil {
		return Ordered{}, err
	}
	if planned {
		return Ordered{}, fmt.Errorf("%w: an identity is planned for it: take the plan back first", ErrConflict)
	}
	if _, err := tx.ExecContext(ctx, `update device set state = 'scrapped', held = null, reason = $3, secrets = `+noSecrets+`, changed = clock_timestamp()
		where record_id = $1 and (generation = $2 or coalesce(held, state) in ('reserved', 'packaged', 'confirmed', 'restored', 'published', 'shipped'))`,
		record[:], int64(all[0].Number), o.Reason); err != nil {
		return Ordered{}, err
	}
	if _, err := tx.ExecContext(ctx, `update identity_use set state = 'released', reason = $2 where record_id = $1 and state = 'bound'`,
		record[:], o.Reason); err != nil {
		return Ordered{}, err
	}
	if published {
		if _, err := tx.ExecContext(ctx, `insert into notice (record_id, generation, type, entry, reason, operator) values ($1, $2, $3, $4, $5, $6)`,
			record[:], int64(g), scrapType, entry, o.Reason, o.Operator); err != nil {
			return Ordered{}, err
		}
	}
	return Ordered{Act: ActScrap, Record: record, Generation: g}, nil
}
