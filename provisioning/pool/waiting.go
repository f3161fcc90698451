package pool

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/lib/pq"
)

// Reserved is a reservation that stands.
type Reserved struct {
	Identity   identity.Identity
	Batch      int64
	Line       string
	Record     identity.RecordID
	Generation identity.Generation
	At         time.Time
}

// Reservations gives the reservations that are older than age by the
// database's clock, oldest first: those that nobody resumed are to be burned.
func (s *Store) Reservations(ctx context.Context, age time.Duration) ([]Reserved, error) {
	var all []Reserved
	err := s.rows(ctx, func(w Waiting) error {
		all = append(all, w.Reserved)
		return nil
	}, `select `+waitingColumns+` from waiting where reserved < clock_timestamp() - make_interval(secs => $1) order by reserved`, age.Seconds())
	if err != nil {
		return nil, fmt.Errorf("read reservations: %w", err)
	}
	return all, nil
}

// Waiting is an identity in the pool. Where it is free, record, generation and
// time of its reservation are zero.
type Waiting struct {
	Reserved
	Free bool
}

const waitingColumns = `type, value, batch, line, coalesce(record_id, ''), coalesce(generation, 0), reserved`

// Look gives those of the identities that wait, by value.
func (s *Store) Look(ctx context.Context, ids []identity.Identity) (map[string]Waiting, error) {
	found := map[string]Waiting{}
	for t, values := range byType(ids) {
		for part := range slices.Chunk(values, page) {
			err := s.rows(ctx, func(w Waiting) error {
				found[w.Identity.Value()] = w
				return nil
			}, `select `+waitingColumns+` from waiting where type = $1 and value = any($2::text[])`, int64(t), pq.Array(part))
			if err != nil {
				return nil, fmt.Errorf("look up %d identities in the pool: %w", len(ids), err)
			}
		}
	}
	return found, nil
}

func byType(ids []identity.Identity) map[identity.Type][]string {
	sorted := map[identity.Type][]string{}
	for _, id := range ids {
		sorted[id.Type()] = append(sorted[id.Type()], id.Value())
	}
	return sorted
}

// Each calls fn with every identity that waits, by type and value. Rows that
// change meanwhile are seen as they are when reached; fn may query.
func (s *Store) Each(ctx context.Context, fn func(Waiting) error) error {
	const query = `select ` + waitingColumns + ` from waiting where (type, value) > ($1, $2) order by type, value limit $3`
	var part []Waiting
	var t identity.Type
	value := ""
	for {
		part = part[:0]
		err := s.rows(ctx, func(w Waiting) error {
			part = append(part, w)
			return nil
		}, query, int64(t), value, page)
		if err != nil {
			return fmt.Errorf("read the pool: %w", err)
		}
		for _, w := range part {
			if err := fn(w); err != nil {
				return err
			}
			t, value = w.Identity.Type(), w.Identity.Value()
		}
		if len(part) < page {
			return nil
		}
	}
}

// Tally counts the rows of each batch, free, reserved and burned ones, in one
// snapshot with the batch's own numbers: they agree unless someone wrote to the
// tables by hand (invariant 2).
type Tally struct {
	Batch                  Batch
	Free, Reserved, Burned int64
}

// Tallies gives the tally of every batch.
func (s *Store) Tallies(ctx context.Context) ([]Tally, error) {
	const query = `
select b.id, b.name, b.line, b.type, b.imported, b.free, b.reserved, b.used, b.burned, b.at,
	coalesce(w.free, 0), coalesce(w.reserved, 0), coalesce(x.burned, 0)
from batch b
left join (select batch, count(*) filter (where reserved is null) as free, count(reserved) as reserved from waiting group by batch) w on w.batch = b.id
left join (select batch, count(*) as burned from burned group by batch) x on x.batch = b.id
order by b.id`
	var all []Tally
	err := s.prepared.Each(ctx, func(scan func(...any) error) error {
		var t Tally
		b := &t.Batch
		if err := scan(&b.ID, &b.Name, &b.Line, &b.Type, &b.Imported, &b.Free, &b.Reserved, &b.Used, &b.Burned, &b.At,
			&t.Free, &t.Reserved, &t.Burned); err != nil {
			return err
		}
		all = append(all, t)
		return nil
	}, query)
	if err != nil {
		return nil, fmt.Errorf("count the pool's rows: %w", err)
	}
	return all, nil
}

func (s *Store) rows(ctx context.Context, fn func(Waiting) error, query string, args ...any) error {
	return s.prepared.Each(ctx, func(scan func(...any) error) error {
		var (
			w      Waiting
			kind   uint8
			value  string
			record []byte
			at     sql.NullTime
		)
		if err := scan(&kind, &value, &w.Batch, &w.Line, &record, &w.Generation, &at); err != nil {
			return err
		}
		var err error
		if w.Identity, err = identity.FromValue(identity.Type(kind), value); err != nil {
			return err
		}
		copy(w.Record[:], record)
		w.At, w.Free = at.Time, !at.Valid
		return fn(w)
	}, query, args...)
}
