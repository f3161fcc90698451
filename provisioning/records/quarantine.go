package records

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/identity"
)

// Quarantine sets a record apart by an operator's order: all its generations on
// the line and in the field. They keep chip and identity, and the state they had.
// Again is a no-op. It matches ErrNotFound, and ErrConflict where nothing of it is
// active.
//
// An entry on its way to the registry may be acknowledged later; Published
// notes it on the quarantined row.
//
// A crash before it leaves nothing, the order is given again; after it, the whole
// record is quarantined.
func (s *Store) Quarantine(ctx context.Context, record identity.RecordID, o Order) error {
	err := s.act(ctx, o, func(tx *sql.Tx) (Ordered, error) {
		all, err := lock(ctx, tx, record)
		if err != nil {
			return Ordered{}, err
		}
		if !has(all, generation.active) {
			return Ordered{}, fmt.Errorf("%w: it is %s", ErrConflict, all[0].State)
		}
		if changed, err := quarantine(ctx, tx, record, o.Reason); err != nil || !changed {
			return Ordered{}, err
		}
		return Ordered{Act: ActQuarantine, Record: record, Generation: all[0].Number}, nil
	})
	if err != nil {
		return fmt.Errorf("quarantine record %s: %w", record.Short(), err)
	}
	return nil
}

// quarantine sets apart all that is active of a locked record.
func quarantine(ctx context.Context, tx *sql.Tx, record identity.RecordID, reason string) (changed bool, err error) {
	res, err := tx.ExecContext(ctx, `update device set held = state, state = 'quarantined', reason = $2, changed = clock_timestamp()
		where record_id = $1 and state in ('reserved', 'packaged', 'confirmed', 'restored', 'published', 'shipped')`, record[:], reason)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// QuarantineOnLine is the SPP's own quarantine, where it is proven that two hold
// one identity or key. It takes only a record that is on the line and has nothing in
// the field, so that nobody's proof stops a device in the field. It tells
// whether the record is quarantined now; again tells the same. The reason is cut
// at 1024 bytes.
//
// A crash before it leaves the device on the line; whoever brings the proof
// again does it. After it the record is quarantined.
func (s *Store) QuarantineOnLine(ctx context.Context, record identity.RecordID, reason string) (held bool, err error) {
	err = needReason(reason)
	if err == nil {
		err = database.InTx(ctx, s.db, nil, func(tx *sql.Tx) error {
			held, err = quarantineOnLine(ctx, tx, record, cut(reason, maxReason))
			return err
		})
	}
	if err != nil {
		return false, fmt.Errorf("quarantine record %s on the line: %w", record.Short(), err)
	}
	return held, nil
}

func quarantineOnLine(ctx context.Context, tx *sql.Tx, record identity.RecordID, reason string) (held bool, err error) {
	all, err := lock(ctx, tx, record)
	switch {
	case errors.Is(err, ErrNotFound):
		return false, nil // nothing to set apart
	case err != nil:
		return false, err
	case has(all, func(g generation) bool { return g.was().InField() }), !has(all, generation.active):
		return false, nil
	}
	_, err = quarantine(ctx, tx, record, reason)
	return err == nil, err
}

// Release puts a quarantined record back where it was, and ends a contest over
// its chip (Contest): the operator has judged. Again, or where nothing was
// quarantined or contested, is a no-op. It matches ErrNotFound, and ErrConflict
// where nothing of it is active or contested.
//
// A crash before it leaves the quarantine; after it the line goes on with the
// device.
func (s *Store) Release(ctx context.Context, record identity.RecordID, o Order) error {
	err := s.act(ctx, o, func(tx *sql.Tx) (Ordered, error) {
		all, err := lock(ctx, tx, record)
		none := errors.Is(err, ErrNotFound)
		if err != nil && !none {
			return Ordered{}, err
		}
		// The chip's row is locked after the device's, as everywhere.
		uncontested, err := changes(ctx, tx, `update chip set contested = null where record_id = $1 and contested is not null`, record[:])
		if err != nil {
			return Ordered{}, err
		}
		released, err := changes(ctx, tx, `update device set state = held, held = null, changed = clock_timestamp()
			where record_id = $1 and state = 'quarantined'`, record[:])
		switch {
		case err != nil:
			return Ordered{}, err
		case !uncontested && none:
			return Ordered{}, ErrNotFound
		case !uncontested && !has(all, generation.active):
			return Ordered{}, fmt.Errorf("%w: it is %s", ErrConflict, all[0].State)
		case !uncontested && !released:
			return Ordered{}, nil
		}
		done := Ordered{Act: ActRelease, Record: record}
		if !none {
			done.Generation = all[0].Number
		}
		return done, nil
	})
	if err != nil {
		return fmt.Errorf("release record %s: %w", record.Short(), err)
	}
	return nil
}

// changes runs a statement and tells whether it changed a row.
func changes(ctx context.Context, tx *sql.Tx, query string, args ...any) (bool, error) {
	res, err := tx.ExecContext(ctx, query, args...)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}
