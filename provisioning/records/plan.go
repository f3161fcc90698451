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

// Plan is a board swap: the chip of Record gets the identity of the scrapped
// record From when it begins, with a generation of its own and so with other keys.
type Plan struct {
	Record, From identity.RecordID
	Identity     identity.Identity
	Batch        int64 // the pool's batch that the identity came from; the pool is not asked again
	Order
	At    time.Time
	Taken bool // the chip has begun
	Clear bool // the old record's scrap entry is published, or there is none
}

// Plan gives the identity of a scrapped record to a chip, by an operator's
// order. Nothing happens until that chip begins (Reserve). The same plan again
// is a no-op and gives the first one.
//
// It matches ErrNotFound where there is no record from; ErrConflict where it is
// not scrapped or its identity was burned, planned for another chip or given to
// one; ErrChipActive where the chip to has an identity, bound or planned;
// ErrOutOfUse where it is scrapped or contested.
//
// A crash before it leaves the identity released; after it the chip to takes it.
func (s *Store) Plan(ctx context.Context, from, to identity.RecordID, o Order) (Plan, error) {
	err := s.act(ctx, o, func(tx *sql.Tx) (Ordered, error) { return plan(ctx, tx, from, to, o) })
	var p Plan
	if err == nil {
		p, err = s.plan(ctx, planQuery+` where record_id = $1 and from_record = $2 and dropped is null order by id desc limit 1`, to[:], from[:])
	}
	if err != nil {
		return Plan{}, fmt.Errorf("plan the identity of record %s for record %s: %w", from.Short(), to.Short(), err)
	}
	return p, nil
}

func plan(ctx context.Context, tx *sql.Tx, from, to identity.RecordID, o Order) (Ordered, error) {
	if from == to || to == (identity.RecordID{}) {
		return Ordered{}, errors.New("it takes two chips")
	}
	var same bool
	if err := tx.QueryRowContext(ctx, `select exists (select from plan where record_id = $1 and from_record = $2 and dropped is null)`, to[:], from[:]).Scan(&same); err != nil || same {
		return Ordered{}, err
	}
	old, err := lock(ctx, tx, from)
	switch {
	case err != nil:
		return Ordered{}, err
	case !scrapped(old):
		return Ordered{}, fmt.Errorf("%w: record %s is %s: scrap it first", ErrConflict, from.Short(), old[0].State)
	}
	chip, err := lock(ctx, tx, to)
	switch {
	case errors.Is(err, ErrNotFound): // it never began
	case err != nil:
		return Ordered{}, err
	case has(chip, generation.active):
		return Ordered{}, ErrChipActive
	case scrapped(chip):
		return Ordered{}, fmt.Errorf("%w: record %s is scrapped", ErrOutOfUse, to.Short())
	}
	var contested bool
	if err := tx.QueryRowContext(ctx, `select exists (select from chip where record_id = $1 and contested is not null)`, to[:]).Scan(&contested); err != nil {
		return Ordered{}, err
	}
	if contested {
		return Ordered{}, fmt.Errorf("%w: the chip of record %s is contested", ErrOutOfUse, to.Short())
	}
	// Whoever binds or plans another identity for the chip meets this at the index.
	var kind uint8
	var value string
	var batch int64
	err = tx.QueryRowContext(ctx, `update identity_use set planned = $2 where record_id = $1 and state = 'released' and planned is null
		returning type, value, batch`, from[:], to[:]).Scan(&kind, &value, &batch)
	if _, taken := database.UniqueViolation(err); taken {
		return Ordered{}, ErrChipActive
	}
	if errors.Is(err, sql.ErrNoRows) {
		return Ordered{}, fmt.Errorf("%w: the identity of record %s is not free: it was burned, planned for another chip, or given to one", ErrConflict, from.Short())
	}
	if err != nil {
		return Ordered{}, err
	}
	_, err = tx.ExecContext(ctx, `insert into plan (record_id, from_record, identity_type, identity_value, batch, reason, operator)
		values ($1, $2, $3, $4, $5, $6, $7)`, to[:], from[:], int64(kind), value, batch, o.Reason, o.Operator)
	return Ordered{Act: ActSwap, Record: from, Generation: old[0].Number, Subject: to.String()}, err
}

// Unplan takes back a plan that its chip has not taken yet, by an operator's
// order: the identity is released again, for another plan. It matches ErrNotFound
// where nothing is planned for the chip, also when it was taken back before.
func (s *Store) Unplan(ctx context.Context, record identity.RecordID, o Order) error {
	err := s.act(ctx, o, func(tx *sql.Tx) (Ordered, error) {
		// Reserve decides by the identity's row, which is changed first here too.
		if _, err := tx.ExecContext(ctx, `update identity_use set planned = null where planned = $1`, record[:]); err != nil {
			return Ordered{}, err
		}
		var from []byte
		err := tx.QueryRowContext(ctx, `update plan set dropped = clock_timestamp() where record_id = $1 and taken is null and dropped is null
			returning from_record`, record[:]).Scan(&from)
		if err != nil {
			return Ordered{}, noRow(err)
		}
		var old identity.RecordID
		copy(old[:], from)
		return Ordered{Act: ActUnplan, Record: old, Subject: record.String()}, nil
	})
	if err != nil {
		return fmt.Errorf("take back the plan for record %s: %w", record.Short(), err)
	}
	return nil
}

// Planned gives the plan that waits for a chip. It matches ErrNotFound where
// there is none, or it was taken.
func (s *Store) Planned(ctx context.Context, record identity.RecordID) (Plan, error) {
	p, err := s.plan(ctx, planQuery+` where record_id = $1 and taken is null and dropped is null`, record[:])
	if err != nil {
		return Plan{}, fmt.Errorf("read the plan for record %s: %w", record.Short(), err)
	}
	return p, nil
}

// EachPlan calls fn with every plan that stands or was taken, oldest first; fn
// may query. An error of fn ends it.
func (s *Store) EachPlan(ctx context.Context, fn func(Plan) error) error {
	last := int64(0)
	for {
		var page []Plan
		err := s.prepared.Each(ctx, func(scan func(...any) error) error {
			p, id, err := scanPlan(scan)
			page, last = append(page, p), id
			return err
		}, planQuery+` where dropped is null and id > $1 order by id limit $2`, last, eachPage)
		if err != nil {
			return fmt.Errorf("read plans: %w", err)
		}
		for _, p := range page {
			if err := fn(p); err != nil {
				return err
			}
		}
		if len(page) < eachPage {
			return nil
		}
	}
}

const planQuery = `select id, record_id, from_record, identity_type, identity_value, batch, operator, reason, at, taken is not null,
	not exists (select from notice n where n.record_id = from_record and n.type = 3 and n.sequence is null) from plan`

func (s *Store) plan(ctx context.Context, query string, args ...any) (Plan, error) {
	st, err := s.prepared.Prepare(ctx, query)
	if err != nil {
		return Plan{}, err
	}
	p, _, err := scanPlan(st.QueryRowContext(ctx, args...).Scan)
	return p, noRow(err)
}

func scanPlan(scan func(...any) error) (p Plan, id int64, err error) {
	var (
		record, from []byte
		kind         uint8
		value        string
	)
	if err := scan(&id, &record, &from, &kind, &value, &p.Batch, &p.Operator, &p.Reason, &p.At, &p.Taken, &p.Clear); err != nil {
		return Plan{}, id, err
	}
	copy(p.Record[:], record)
	copy(p.From[:], from)
	p.Identity, err = identity.FromValue(identity.Type(kind), value)
	return p, id, err
}
