package records

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/devicekeys/devicekeys/identity"
)

// InField gives the generation of a record that its device holds: published or
// shipped, and not quarantined. It matches ErrNotFound.
func (s *Store) InField(ctx context.Context, record identity.RecordID) (Device, error) {
	const query = `select ` + columns + ` from device where record_id = $1 and state in ('published', 'shipped')`
	d, err := s.device(ctx, query, record[:])
	if err != nil {
		return Device{}, fmt.Errorf("read what record %s has in the field: %w", record.Short(), err)
	}
	return d, nil
}

// Return takes a shipped device back to published, by an operator's order: it
// comes to the line again and has to show its lock before it ships again. One
// that is published is left as it is. It matches ErrNotFound, and ErrConflict for
// one that is not in the field.
//
// A crash before it leaves the device shipped; after it, whoever asks the device
// for its lock again ships it.
func (s *Store) Return(ctx context.Context, record identity.RecordID, o Order) error {
	err := s.act(ctx, o, func(tx *sql.Tx) (Ordered, error) {
		all, err := lock(ctx, tx, record)
		if err != nil {
			return Ordered{}, err
		}
		for _, g := range all {
			switch g.State {
			case Published:
				return Ordered{}, nil
			case Shipped:
				_, err := tx.ExecContext(ctx, `update device set state = 'published', changed = clock_timestamp()
					where record_id = $1 and generation = $2`, record[:], int64(g.Number))
				return Ordered{Act: ActReturn, Record: record, Generation: g.Number}, err
			}
		}
		return Ordered{}, fmt.Errorf("%w: it is %s", ErrConflict, all[0].State)
	})
	if err != nil {
		return fmt.Errorf("return record %s: %w", record.Short(), err)
	}
	return nil
}
