package records

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/identity"
)

// Contested is a chip that two signed delivery lists say different things of.
type Contested struct {
	Record  identity.RecordID // the chip of the earlier list
	Listed  identity.RecordID // the chip of the new list: the same with another attestation key, or another with the same key
	Earlier string            // maker and lot of the earlier list
	Now     string            // maker and lot of the new one
}

// ContestedError names every chip of a delivery list that an earlier list
// contradicts. It matches ErrOtherChip. Both lists are signed, so neither can be
// believed: Contest sets each chip apart.
type ContestedError struct{ Chips []Contested }

// shownContested is how many the error's text names.
const shownContested = 5

func (e *ContestedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d chips: %v: ", len(e.Chips), ErrOtherChip)
	for i, c := range e.Chips[:min(len(e.Chips), shownContested)] {
		if i > 0 {
			b.WriteString(", ")
		}
		if c.Listed == c.Record {
			fmt.Fprintf(&b, "record %s has another attestation key in %s", c.Record.Short(), c.Earlier)
		} else {
			fmt.Fprintf(&b, "the attestation key of record %s is that of record %s in %s", c.Listed.Short(), c.Record.Short(), c.Earlier)
		}
	}
	if more := len(e.Chips) - shownContested; more > 0 {
		fmt.Fprintf(&b, " and %d more", more)
	}
	return b.String()
}

// Is makes the error match ErrOtherChip.
func (e *ContestedError) Is(target error) bool { return target == ErrOtherChip }

// place names a delivery list by its maker and lot.
func place(maker, lot string) string { return fmt.Sprintf("lot %q of maker %q", lot, maker) }

// IncidentContested is the kind of incident that Contest records.
const IncidentContested = "contested"

// Contest marks a chip as contested, quarantines what of it is on the line,
// never a device in the field, and records an incident with the facts: all in
// one transaction. A contested chip begins nothing until an operator releases
// it (Release). Again is a no-op, with the first reason. It matches ErrNotFound for
// a chip that stands on no list. The reason is cut at 1024 bytes.
//
// A crash before it leaves the chip as it was: who found the contradiction finds
// it again.
func (s *Store) Contest(ctx context.Context, record identity.RecordID, reason string, facts map[string]string) error {
	fail := func(err error) error { return fmt.Errorf("contest the chip of record %s: %w", record.Short(), err) }
	if err := needReason(reason); err != nil {
		return fail(err)
	}
	reason = cut(reason, maxReason)
	said, err := encodeFacts(facts)
	if err != nil {
		return fail(err)
	}
	err = database.InTx(ctx, s.db, nil, func(tx *sql.Tx) error {
		// Rows of the device before the chip's, as Reserve locks them. A generation
		// that is being reserved is waited for at the chip's row, and found after it.
		if _, err := tx.ExecContext(ctx, `select from device where record_id = $1 order by generation desc for update`, record[:]); err != nil {
			return err
		}
		changed, err := changes(ctx, tx, `update chip set contested = $2 where record_id = $1 and contested is null`, record[:], reason)
		if err != nil {
			return err
		}
		if !changed {
			var listed bool
			return noRow(tx.QueryRowContext(ctx, `select true from chip where record_id = $1`, record[:]).Scan(&listed))
		}
		if _, err := quarantineOnLine(ctx, tx, record, reason); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, incidentQuery, IncidentContested, record[:], 0, "", "", reason, said)
		return err
	})
	if err != nil {
		return fail(err)
	}
	return nil
}
