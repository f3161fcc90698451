package records

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// Chip is what the chip maker's delivery list says of a chip.
type Chip struct {
	Record      identity.RecordID
	Attestation statement.PublicKey // signs the chip's hello
	Maker, Lot  string
	Contested   string // why the chip is contested (Contest); empty if nobody contests it
}

// ErrOtherChip says that a delivery list contradicts an earlier one: a chip
// with another attestation key, or an attestation key with another chip.
var ErrOtherChip = errors.New("an earlier delivery list says otherwise")

// importPage is how many chips one statement brings: 970 KB.
const importPage = 10_000

// ImportChips takes the chips of a delivery list whose signature was checked
// with the maker's key: all of them, in one transaction, or none. It tells how
// many were added and how many were known, with the same attestation key, before.
// Where an earlier list says otherwise the error is a *ContestedError, which names
// every such chip and matches ErrOtherChip; that is an incident, since one of the
// lists is wrong or a chip was cloned.
//
// A crash before the commit leaves nothing; the import is done again. Doing it
// twice adds nothing.
func (s *Store) ImportChips(ctx context.Context, l keypackage.DeliveryList, maker statement.PublicKey) (added, known int, err error) {
	hash := maker.Hash()
	err = database.InTx(ctx, s.db, nil, func(tx *sql.Tx) error {
		added = 0
		contested := &ContestedError{}
		for chips := range slices.Chunk(l.Chips, importPage) {
			n, differing, err := importChips(ctx, tx, chips, l, hash[:])
			if err != nil {
				return err
			}
			added += n
			contested.Chips = append(contested.Chips, differing...)
		}
		if len(contested.Chips) > 0 {
			return contested
		}
		return nil
	})
	if err != nil {
		return 0, 0, fmt.Errorf("import %s: %w", place(l.Maker, l.Lot), err)
	}
	return added, len(l.Chips) - added, nil
}

// importChips adds one page of a list, and gives the chips of earlier lists that
// it contradicts.
func importChips(ctx context.Context, tx *sql.Tx, chips []keypackage.DeliveredChip, l keypackage.DeliveryList, maker []byte) (added int, contested []Contested, err error) {
	// Many rows as two byte strings, cut in the database: arrays of byte strings
	// would travel as hexadecimal text. A chip or a key that is there already is
	// left out, and seen below: with it what another import adds at this moment.
	const query = `
insert into chip (record_id, attestation, maker, maker_key, lot)
select substring($1::bytea from i * 32 + 1 for 32), substring($2::bytea from i * 65 + 1 for 65), $3, $4, $5
from generate_series(0, $6::int - 1) i
on conflict do nothing`
	const differing = `
with listed as (
	select substring($1::bytea from i * 32 + 1 for 32) as record_id, substring($2::bytea from i * 65 + 1 for 65) as attestation
	from generate_series(0, $3::int - 1) i
)
select c.record_id, l.record_id, c.maker, c.lot from listed l join chip c on c.record_id = l.record_id and c.attestation <> l.attestation
union all
select c.record_id, l.record_id, c.maker, c.lot from listed l join chip c on c.attestation = l.attestation and c.record_id <> l.record_id`
	var records, points []byte
	for _, c := range chips {
		records = append(records, c.Record[:]...)
		points = append(points, c.Attestation.Point()...)
	}
	res, err := tx.ExecContext(ctx, query, records, points, l.Maker, maker, l.Lot, len(chips))
	if err != nil {
		return 0, nil, err
	}
	n, err := res.RowsAffected()
	if err != nil || n == int64(len(chips)) {
		return int(n), nil, err
	}
	rows, err := tx.QueryContext(ctx, differing, records, points, len(chips))
	if err != nil {
		return 0, nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var record, listed []byte
		var by, lot string
		if err := rows.Scan(&record, &listed, &by, &lot); err != nil {
			return 0, nil, err
		}
		c := Contested{Earlier: place(by, lot), Now: place(l.Maker, l.Lot)}
		copy(c.Record[:], record)
		copy(c.Listed[:], listed)
		contested = append(contested, c)
	}
	return int(n), contested, rows.Err()
}

// Chip gives what was delivered under a record id. It matches ErrNotFound for a
// chip that stands on no list.
func (s *Store) Chip(ctx context.Context, record identity.RecordID) (Chip, error) {
	c := Chip{Record: record}
	var point []byte
	err := s.prepared.Row(ctx, `select attestation, maker, lot, coalesce(contested, '') from chip where record_id = $1`,
		[]any{record[:]}, &point, &c.Maker, &c.Lot, &c.Contested)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotFound
	}
	if err == nil {
		c.Attestation, err = statement.ParsePoint(point)
	}
	if err != nil {
		return Chip{}, fmt.Errorf("read chip of record %s: %w", record.Short(), err)
	}
	return c, nil
}

// ChipCount gives how many chips were delivered.
func (s *Store) ChipCount(ctx context.Context) (int64, error) {
	var n int64
	if err := s.db.QueryRowContext(ctx, `select count(*) from chip`).Scan(&n); err != nil {
		return 0, fmt.Errorf("count chips: %w", err)
	}
	return n, nil
}
