package records

import (
	"context"
	"database/sql"
	"errors"

	"github.com/devicekeys/devicekeys/identity"
)

// generation is what an act looks at of one generation, locked.
type generation struct {
	Number    identity.Generation
	State     State
	Held      State // before the quarantine
	SetAside  bool
	Published bool // it was published at some time
	kind      uint8
	value     string
}

// was gives the state, for a quarantined generation the one before.
func (g generation) was() State {
	if g.State == Quarantined {
		return g.Held
	}
	return g.State
}

// active reports whether the generation holds chip and identity.
func (g generation) active() bool { return g.was().OnLine() || g.was().InField() }

// lock locks all generations of a record, newest first, and gives them as they
// are now; none is ErrNotFound. Whatever changes more than one row of a record
// begins so, and Reserve looks at all rows under a lock too, so that until the
// transaction's end no generation is added, published or quarantined.
func lock(ctx context.Context, tx *sql.Tx, record identity.RecordID) ([]generation, error) {
	// Two statements: a generation that was being added while the first one
	// waited is seen by the second. From newest to oldest, as Published does, so
	// that two don't wait for each other.
	const query = `from device where record_id = $1 order by generation desc for update`
	if _, err := tx.ExecContext(ctx, `select `+query, record[:]); err != nil {
		return nil, err
	}
	rows, err := tx.QueryContext(ctx, `select generation, state, coalesce(held, ''), set_aside is not null, published is not null,
		identity_type, identity_value `+query, record[:])
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []generation
	for rows.Next() {
		var g generation
		if err := rows.Scan(&g.Number, &g.State, &g.Held, &g.SetAside, &g.Published, &g.kind, &g.value); err != nil {
			return nil, err
		}
		all = append(all, g)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, ErrNotFound
	}
	return all, nil
}

// scrapped reports whether a record is out of use for good.
func scrapped(all []generation) bool { return all[0].State == Scrapped }

func has(all []generation, what func(generation) bool) bool {
	for _, g := range all {
		if what(g) {
			return true
		}
	}
	return false
}

// noRow makes "no rows" the package's own.
func noRow(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return err
}
