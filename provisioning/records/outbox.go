package records

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/identity"
)

// Pending is an entry that waits for the registry.
type Pending struct {
	Record     identity.RecordID
	Generation identity.Generation
	Type       uint8             // 0: the device's own entry, else the notice's type
	Identity   identity.Identity // of a device's own entry: the pool's row goes once it is published
	Entry      []byte
	Since      time.Time
}

// noticeDue holds a device's certificates back until its own entry is published:
// the registry takes none without that.
const noticeDue = `(n.type <> 5 or exists (select from device d where d.record_id = n.record_id and d.generation = n.generation and d.sequence is not null))`

// Outbox gives up to limit entries that wait for the registry and were not set
// aside, oldest first: restored devices' own and notices. Those of quarantined
// devices are not sent. Several publishers may read it at once: the sequencer
// takes an entry once and answers every sender the same.
//
// A device's row that does not parse is a *RowError, and nothing is given: set
// it aside to go on with the others.
func (s *Store) Outbox(ctx context.Context, limit int) ([]Pending, error) {
	// Each half by its own index, so that a long queue costs what is read of it.
	const query = `
select * from (
	(select record_id, generation, 0::smallint as type, identity_type, identity_value, entry, changed from device
		where state = 'restored' and set_aside is null order by changed limit $1)
	union all
	(select record_id, generation, type, 0::smallint, '', entry, changed from notice n
		where sequence is null and set_aside is null and ` + noticeDue + ` order by changed limit $1)
) waiting order by changed, record_id, type limit $1`
	var all []Pending
	err := s.prepared.Each(ctx, func(scan func(...any) error) error {
		var (
			p      Pending
			record []byte
			kind   uint8
			value  string
		)
		if err := scan(&record, &p.Generation, &p.Type, &kind, &value, &p.Entry, &p.Since); err != nil {
			return err
		}
		copy(p.Record[:], record)
		if p.Type == 0 {
			var err error
			if p.Identity, err = identity.FromValue(identity.Type(kind), value); err != nil {
				return &RowError{Record: p.Record, Generation: p.Generation, Err: err}
			}
		}
		all = append(all, p)
		return nil
	}, query, limit)
	if row := (*RowError)(nil); errors.As(err, &row) {
		return nil, fmt.Errorf("read the outbox: %w: set it aside to go on with the others", err)
	}
	if err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	return all, nil
}

// Waiting tells how many entries wait in the outbox, notices among them, how
// many were set aside, and since when the oldest waits (zero if none does).
func (s *Store) Waiting(ctx context.Context) (waiting, setAside int64, oldest time.Time, err error) {
	const query = `
select count(*) filter (where not aside), count(*) filter (where aside), min(changed) filter (where not aside) from (
	select changed, false as aside from device where state = 'restored' and set_aside is null
	union all select changed, true from device where state = 'restored' and set_aside is not null
	union all select changed, set_aside is not null from notice n where sequence is null and ` + noticeDue + `
) entries`
	var since sql.NullTime
	if err := s.prepared.Row(ctx, query, nil, &waiting, &setAside, &since); err != nil {
		return 0, 0, time.Time{}, fmt.Errorf("count the outbox: %w", err)
	}
	return waiting, setAside, since.Time, nil
}

// maxReason bounds reasons, in bytes; the SPP's own are cut, an operator's refused.
const maxReason = 1024

// SetAside takes an entry that the sequencer refused out of the outbox, with
// the reason, so that it blocks no other; typ 0 is the device's own, else the
// notice's type. The device stays restored, or quarantined: Published takes it
// from there once the cause is mended, Burned or Abandon if it can't be. The first
// reason stays; it is cut at 1024 bytes.
func (s *Store) SetAside(ctx context.Context, record identity.RecordID, g identity.Generation, typ uint8, reason string) error {
	err := needReason(reason)
	switch {
	case err != nil:
	case typ == 0:
		const query = `update device set set_aside = $3 where record_id = $1 and generation = $2
			and coalesce(held, state) = 'restored' and set_aside is null`
		done := func(have Device) bool { return have.was() == Restored && have.SetAside != "" }
		_, err = s.step(ctx, "set aside", record, g, done, query, cut(reason, maxReason))
		return err
	default:
		var n int64
		n, err = s.prepared.Exec(ctx, `update notice set set_aside = $4, changed = clock_timestamp()
			where record_id = $1 and generation = $2 and type = $3 and sequence is null and set_aside is null`,
			record[:], int64(g), int64(typ), cut(reason, maxReason))
		if err == nil && n == 0 {
			var sequence int64
			if sequence, _, err = s.notice(ctx, record, g, typ); err == nil && sequence >= 0 {
				err = fmt.Errorf("%w: it is published", ErrConflict)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("set aside the entry of type %d, record %s, generation %d: %w", typ, record.Short(), g, err)
	}
	return nil
}

// PutBack returns an entry that was set aside to the outbox, by an operator's
// order. Again, or once it is published, is a no-op. It matches ErrNotFound, and
// ErrConflict where the device has no entry that could wait.
func (s *Store) PutBack(ctx context.Context, record identity.RecordID, g identity.Generation, typ uint8, o Order) error {
	err := s.act(ctx, o, func(tx *sql.Tx) (Ordered, error) {
		done := Ordered{Act: ActPutBack, Record: record, Generation: g}
		if typ != 0 {
			done.Subject = fmt.Sprintf("notice of type %d", typ)
			changed, err := changes(ctx, tx, `update notice set set_aside = null, changed = clock_timestamp()
				where record_id = $1 and generation = $2 and type = $3 and sequence is null and set_aside is not null`, record[:], int64(g), int64(typ))
			if err != nil || changed {
				return done, err
			}
			var there bool
			err = tx.QueryRowContext(ctx, `select true from notice where record_id = $1 and generation = $2 and type = $3`, record[:], int64(g), int64(typ)).Scan(&there)
			return Ordered{}, noRow(err)
		}
		changed, err := changes(ctx, tx, `update device set set_aside = null
			where record_id = $1 and generation = $2 and state = 'restored' and set_aside is not null`, record[:], int64(g))
		if err != nil || changed {
			return done, err
		}
		var state State
		err = tx.QueryRowContext(ctx, `select state from device where record_id = $1 and generation = $2`, record[:], int64(g)).Scan(&state)
		if err == nil && state != Restored && !state.Ever() {
			err = fmt.Errorf("%w: it is %s", ErrConflict, state)
		}
		return Ordered{}, noRow(err)
	})
	if err != nil {
		return fmt.Errorf("put back the entry of type %d, record %s, generation %d: %w", typ, record.Short(), g, err)
	}
	return nil
}

// Aside is an entry that was set aside: somebody has to look at it.
type Aside struct {
	Record     identity.RecordID
	Generation identity.Generation
	Type       uint8 // 0: the device's own entry, else the notice's type
	Reason     string
	Since      time.Time // since when it is what it is: restored, or set aside
}

// Aside gives the entries that were set aside, oldest first.
func (s *Store) Aside(ctx context.Context) ([]Aside, error) {
	const query = `
select record_id, generation, 0::smallint as type, set_aside, changed from device where state = 'restored' and set_aside is not null
union all select record_id, generation, type, set_aside, changed from notice where sequence is null and set_aside is not null
order by changed, record_id, type`
	var all []Aside
	err := s.prepared.Each(ctx, func(scan func(...any) error) error {
		var a Aside
		var record []byte
		if err := scan(&record, &a.Generation, &a.Type, &a.Reason, &a.Since); err != nil {
			return err
		}
		copy(a.Record[:], record)
		all = append(all, a)
		return nil
	}, query)
	if err != nil {
		return nil, fmt.Errorf("read what was set aside: %w", err)
	}
	return all, nil
}
