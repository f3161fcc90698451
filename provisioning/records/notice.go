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

// Notice is a registry entry that is no device's own: that a record is scrapped.
type Notice struct {
	Record     identity.RecordID
	Generation identity.Generation // the generation it is about
	Type       uint8               // as the registry numbers its types of entry: 3 scrap, 4 erase
	Entry      []byte
	Sequence   int64  // its place in the registry; -1 while it waits
	SetAside   string // why the sequencer refused it; empty if it didn't
	Order
	At time.Time
}

// EachNotice calls fn with every notice, by record, generation and type; fn may
// query. An error of fn ends it.
func (s *Store) EachNotice(ctx context.Context, fn func(Notice) error) error {
	const query = `select record_id, generation, type, entry, coalesce(sequence, -1), coalesce(set_aside, ''), operator, reason, at from notice
		where (record_id, generation, type) > ($1, $2, $3) order by record_id, generation, type limit $4`
	var last Notice
	for {
		var page []Notice
		err := s.prepared.Each(ctx, func(scan func(...any) error) error {
			var n Notice
			var record []byte
			if err := scan(&record, &n.Generation, &n.Type, &n.Entry, &n.Sequence, &n.SetAside, &n.Operator, &n.Reason, &n.At); err != nil {
				return err
			}
			copy(n.Record[:], record)
			page = append(page, n)
			return nil
		}, query, last.Record[:], int64(last.Generation), int64(last.Type), eachPage)
		if err != nil {
			return fmt.Errorf("read notices: %w", err)
		}
		for _, n := range page {
			if err := fn(n); err != nil {
				return err
			}
			last = n
		}
		if len(page) < eachPage {
			return nil
		}
	}
}

// Noticed notes that the registry acknowledged a notice as durable, at the given
// place, as Published does for a device's own entry. The same again is a no-op;
// another place is an ErrConflict, as is one that another notice has.
//
// A crash before it leaves the notice in the outbox: it is sent again and the
// sequencer answers with the same place.
func (s *Store) Noticed(ctx context.Context, record identity.RecordID, g identity.Generation, typ uint8, sequence int64) error {
	const query = `update notice set sequence = $4, set_aside = null, changed = clock_timestamp()
		where record_id = $1 and generation = $2 and type = $3 and sequence is null`
	fail := func(err error) error {
		return fmt.Errorf("note publication of the notice of type %d, record %s, generation %d: %w", typ, record.Short(), g, err)
	}
	n, err := s.prepared.Exec(ctx, query, record[:], int64(g), int64(typ), sequence)
	if _, taken := database.UniqueViolation(err); taken {
		return fail(fmt.Errorf("%w: another notice has place %d", ErrConflict, sequence))
	}
	if err != nil {
		return fail(err)
	}
	if n == 1 {
		return nil
	}
	have, _, err := s.notice(ctx, record, g, typ)
	switch {
	case err != nil:
		return fail(err)
	case have != sequence:
		return fail(fmt.Errorf("%w: it has place %d", ErrConflict, have))
	}
	return nil
}

// notice gives a notice's place, -1 while it waits, and why it was set aside.
func (s *Store) notice(ctx context.Context, record identity.RecordID, g identity.Generation, typ uint8) (sequence int64, aside string, err error) {
	const query = `select coalesce(sequence, -1), coalesce(set_aside, '') from notice where record_id = $1 and generation = $2 and type = $3`
	err = s.prepared.Row(ctx, query, []any{record[:], int64(g), int64(typ)}, &sequence, &aside)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotFound
	}
	return sequence, aside, err
}
