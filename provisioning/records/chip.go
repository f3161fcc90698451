package records

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

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
}

// ErrOtherChip says that a delivery list contradicts an earlier one: a chip
// with another attestation key, or an attestation key with another chip.
var ErrOtherChip = errors.New("an earlier delivery list says otherwise")

// importPage is how many chips one statement brings: 970 KB.
const importPage = 10_000

// ImportChips takes the chips of a delivery list whose signature was checked
// with the maker's key: all of them, in one transaction, or none. It tells how
// many were added and how many were known, with the same attestation key, before. It
// matches ErrOtherChip where an earlier list says otherwise; that is an
// incident, since one of the lists is wrong or a chip was cloned.
//
// A crash before the commit leaves nothing; the import is done again. Doing it
// twice adds nothing.
func (s *Store) ImportChips(ctx context.Context, l keypackage.DeliveryList, maker statement.PublicKey) (added, known int, err error) {
	// Many rows as two byte strings, cut in the database: arrays of byte strings
	// would travel as hexadecimal text.
	const query = `
insert into chip (record_id, attestation, maker, maker_key, lot)
select substring($1::bytea from i * 32 + 1 for 32), substring($2::bytea from i * 65 + 1 for 65), $3, $4, $5
from generate_series(0, $6::int - 1) i
on conflict (record_id) do nothing`
	const differing = `
with listed as (
	select substring($1::bytea from i * 32 + 1 for 32) as record_id, substring($2::bytea from i * 65 + 1 for 65) as attestation
	from generate_series(0, $3::int - 1) i
)
select c.record_id, c.maker, c.lot from listed l join chip c using (record_id) where c.attestation <> l.attestation limit 1`
	hash := maker.Hash()
	err = database.InTx(ctx, s.db, nil, func(tx *sql.Tx) error {
		added = 0
		for chips := l.Chips; len(chips) > 0; {
			page := chips[:min(len(chips), importPage)]
			chips = chips[len(page):]
			var records, points []byte
			for _, c := range page {
				records = append(records, c.Record[:]...)
				points = append(points, c.Attestation.Point()...)
			}
			res, err := tx.ExecContext(ctx, query, records, points, l.Maker, hash[:], l.Lot, len(page))
			if _, taken := database.UniqueViolation(err); taken {
				return fmt.Errorf("an attestation key of the list belongs to another chip: %w", ErrOtherChip)
			}
			if err != nil {
				return err
			}
			n, err := res.RowsAffected()
			if err != nil {
				return err
			}
			added += int(n)
			var record []byte
			var by, lot string
			err = tx.QueryRowContext(ctx, differing, records, points, len(page)).Scan(&record, &by, &lot)
			if err == nil {
				var id identity.RecordID
				copy(id[:], record)
				return fmt.Errorf("record %s has another attestation key in lot %q of maker %q: %w", id.Short(), lot, by, ErrOtherChip)
			}
			if !errors.Is(err, sql.ErrNoRows) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, 0, fmt.Errorf("import lot %q of maker %q: %w", l.Lot, l.Maker, err)
	}
	return added, len(l.Chips) - added, nil
}

// Chip gives what was delivered under a record id. It matches ErrNotFound for a
// chip that stands on no list.
func (s *Store) Chip(ctx context.Context, record identity.RecordID) (Chip, error) {
	c := Chip{Record: record}
	var point []byte
	err := s.prepared.Row(ctx, `select attestation, maker, lot from chip where record_id = $1`, []any{record[:]}, &point, &c.Maker, &c.Lot)
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
