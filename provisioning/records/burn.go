package records

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/identity"
)

// Burned ends an identity that was given out and can't be used: its reservation
// can't be resumed. The device row, if there is one, is burned with it. An
// identity that is published or quarantined, whose entry may be on its way to
// the registry, or that was released, is refused with ErrConflict. The same again
// is a no-op. The reason is cut at 1024 bytes.
//
// It comes before pool.Burn. A crash between the two leaves the identity burned
// here and reserved in the pool, which whoever burns does again.
func (s *Store) Burned(ctx context.Context, id identity.Identity, batch int64, reason string) error {
	err := needReason(reason)
	if err == nil {
		err = database.InTx(ctx, s.db, nil, func(tx *sql.Tx) error {
			_, err := burn(ctx, tx, id, batch, cut(reason, maxReason))
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("burn identity %q: %w", id, err)
	}
	return nil
}

// BurnedBy is Burned by an operator's order, for an identity that is free or
// reserved in the pool.
func (s *Store) BurnedBy(ctx context.Context, id identity.Identity, batch int64, o Order) error {
	err := s.act(ctx, o, func(tx *sql.Tx) (Ordered, error) {
		burned, err := burn(ctx, tx, id, batch, o.Reason)
		if err != nil || burned == nil {
			return Ordered{}, err
		}
		burned.Act, burned.Subject = ActBurn, id.String()
		return *burned, nil
	})
	if err != nil {
		return fmt.Errorf("burn identity %q: %w", id, err)
	}
	return nil
}

// burn gives the record and generation that were burned, zero if no device had
// the identity, or nil where it was burned before.
func burn(ctx context.Context, tx *sql.Tx, id identity.Identity, batch int64, reason string) (*Ordered, error) {
	kind, value := int64(id.Type()), id.Value()
	// Rows of devices before the identity's own, as everywhere.
	const devices = `from device where identity_type = $1 and identity_value = $2`
	if _, err := tx.ExecContext(ctx, `select `+devices+` order by record_id, generation desc for update`, kind, value); err != nil {
		return nil, err
	}
	// A reservation under way is waited for here, and its row seen by what follows.
	var record []byte
	err := tx.QueryRowContext(ctx, `insert into identity_use as u (type, value, batch, state, reason) values ($1, $2, $3, 'burned', $4)
		on conflict (type, value) do update set state = 'burned', reason = excluded.reason where u.state = 'bound'
		returning coalesce(record_id, '')`, kind, value, batch, reason).Scan(&record)
	switch {
	case err == nil:
	case !errors.Is(err, sql.ErrNoRows):
		return nil, err
	default:
		var state UseState
		if err := tx.QueryRowContext(ctx, `select state from identity_use where type = $1 and value = $2`, kind, value).Scan(&state); err != nil {
			return nil, err
		}
		if state != UseBurned {
			return nil, fmt.Errorf("%w: it is %s", ErrConflict, state)
		}
		return nil, nil
	}
	// The device may have got its row while the identity was waited for: locked
	// before it is looked at, so that nobody quarantines it in between.
	if _, err := tx.ExecContext(ctx, `select `+devices+` and record_id = $3 order by generation desc for update`, kind, value, record); err != nil {
		return nil, err
	}
	// A record that the identity was moved from keeps its rows.
	var state State
	err = tx.QueryRowContext(ctx, `select state `+devices+` and record_id = $3 and not (state in ('burned', 'reserved', 'packaged', 'confirmed') or
		state = 'restored' and set_aside is not null) limit 1`, kind, value, record).Scan(&state)
	if err == nil {
		return nil, fmt.Errorf("%w: its device is %s", ErrConflict, state)
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return nil, err
	}
	burned := &Ordered{}
	err = tx.QueryRowContext(ctx, `update device set state = 'burned', reason = $4, secrets = `+noSecrets+`, changed = clock_timestamp()
		where identity_type = $1 and identity_value = $2 and record_id = $3 and state <> 'burned' returning generation`, kind, value, record, reason).Scan(&burned.Generation)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, err
	}
	copy(burned.Record[:], record)
	return burned, nil
}

// BurnUnclaimed ends an identity that is reserved in the pool and that nobody
// came for: only if no row here knows it. It tells whether the identity is burned
// now, so that pool.Burn is due; false means that a device has or had it. The
// reason is cut at 1024 bytes. Against Reserve the first one wins, and the other is
// told.
//
// A crash between it and pool.Burn leaves the identity burned here and reserved
// in the pool; the same call again tells so.
func (s *Store) BurnUnclaimed(ctx context.Context, id identity.Identity, batch int64, reason string) (burned bool, err error) {
	fail := func(err error) (bool, error) { return false, fmt.Errorf("burn unclaimed identity %q: %w", id, err) }
	if err := needReason(reason); err != nil {
		return fail(err)
	}
	n, err := s.prepared.Exec(ctx, `insert into identity_use (type, value, batch, state, reason) values ($1, $2, $3, 'burned', $4) on conflict do nothing`,
		int64(id.Type()), id.Value(), batch, cut(reason, maxReason))
	if err != nil {
		return fail(err)
	}
	if n == 1 {
		return true, nil
	}
	var state UseState
	if err := s.prepared.Row(ctx, `select state from identity_use where type = $1 and value = $2`, []any{int64(id.Type()), id.Value()}, &state); err != nil {
		return fail(err)
	}
	return state == UseBurned, nil
}
