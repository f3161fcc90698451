package pool

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/lib/pq"
)

// Range is a run of identities by their canonical values, both ends included:
// for IMEIs 14 digits, "00440200000000" to "00440299999999". Values are compared
// byte by byte.
type Range struct{ From, To string }

// Reservation is an identity given to one generation of one record.
type Reservation struct {
	Identity identity.Identity
	Batch    int64
	New      bool // made by this call, not by an earlier one
}

// maxTries bounds how often Reserve begins anew, after a race with another call
// for the same device or for the last identities. Three is what it takes in theory.
const maxTries = 10

// Reserve gives a free identity of the product line, within one of the ranges
// (none given: any), to a generation of a record: the lowest one of the first
// range that has any. The same record and generation again gets the same identity,
// whatever the ranges. It matches ErrEmpty, ErrOutOfRange, ErrBusy.
//
// A crash after it leaves the identity reserved for that record and generation;
// the next try of the same device gets it again.
//
// With keys, only an identity is taken for which a key waits for each entry
// named: where none of those that are free has them, that is ErrNoKeys.
func (s *Store) Reserve(ctx context.Context, line string, within []Range, keys []string, record identity.RecordID, g identity.Generation) (Reservation, error) {
	fail := func(err error) (Reservation, error) {
		return Reservation{}, fmt.Errorf("reserve an identity of line %q for record %s, generation %d: %w", line, record.Short(), g, err)
	}
	if record == (identity.RecordID{}) || g == 0 {
		return fail(errors.New("record id or generation is missing"))
	}
	a := reservation{line: line, within: within, keys: keys, record: record, g: g}
	a.from, a.to = bounds(within)
	return s.reserved.Do(ctx, a, func(ctx context.Context) (Reservation, error) { return s.reserveAlone(ctx, a, fail) })
}

// reserveAlone takes an identity for one device.
func (s *Store) reserveAlone(ctx context.Context, a reservation, fail func(error) (Reservation, error)) (Reservation, error) {
	query := a.query(true)
	for try := 1; ; try++ {
		r, err := s.reserve(ctx, query, a)
		if err == nil {
			return r, nil
		}
		_, raced := database.UniqueViolation(err) // another call for the same device came first: read what it got
		if !raced && !errors.Is(err, sql.ErrNoRows) {
			return fail(err)
		}
		if !raced {
			if err = s.why(ctx, a); !errors.Is(err, ErrBusy) {
				return fail(err)
			}
			// All that are free are locked by others, who may yet give them
			// back: get in line. It takes as long as their statements do, and the
			// server's bound on a statement ends it.
			query = a.query(false)
		}
		if try == maxTries {
			return fail(err)
		}
	}
}

// bounds gives the ranges as two arrays; "~" lies above every canonical value.
func bounds(within []Range) (from, to any) {
	if len(within) == 0 {
		within = []Range{{"", "~"}}
	}
	f, t := make([]string, len(within)), make([]string, len(within))
	for i, r := range within {
		f[i], t[i] = r.From, r.To
	}
	return pq.Array(f), pq.Array(t)
}

// reservation is what a reservation is made of; from and to are the ranges, as arrays.
type reservation struct {
	line     string
	within   []Range
	from, to any
	keys     []string
	record   identity.RecordID
	g        identity.Generation
}

// query gives the statement: one round trip, one transaction. Two calls for one
// device meet at the unique index, and the second one fails. Rows that others
// have locked are skipped, or waited for.
func (a reservation) query(skip bool) string {
	q := reserveBegin
	if len(a.keys) > 0 {
		q += reserveKeys
	}
	q += reservePick
	if skip {
		q += ` skip locked`
	}
	return q + reserveEnd
}

// args gives the statement's arguments.
func (a reservation) args() []any {
	args := []any{a.line, a.from, a.to, a.record[:], int64(a.g)}
	if len(a.keys) > 0 {
		args = append(args, pq.Array(a.keys))
	}
	return args
}

const (
	reserveBegin = `
with had as (
	select type, value, batch from waiting where record_id = $4 and generation = $5 and reserved is not null
), pick as (
	select w.type, w.value from unnest($2::text[], $3::text[]) with ordinality r(low, high, place)
	cross join lateral (
		select type, value from waiting
		where line = $1 and reserved is null and value between r.low and r.high`

	reserveKeys = ` and (select count(*) from waiting_key k
			where k.type = waiting.type and k.value = waiting.value and k.entry = any($6::text[])) = cardinality($6::text[])`

	reservePick = `
		order by value limit 1 for update`

	reserveEnd = `
	) w
	where not exists (select from had)
	order by r.place limit 1
), taken as (
	update waiting w set record_id = $4, generation = $5, reserved = clock_timestamp()
	from pick where w.type = pick.type and w.value = pick.value
	returning w.type, w.value, w.batch
), counted as (
	update batch b set free = free - 1, reserved = b.reserved + 1 from taken where b.id = taken.batch
)
select type, value, batch, true from taken union all select type, value, batch, false from had`
)

func (s *Store) reserve(ctx context.Context, query string, a reservation) (Reservation, error) {
	var (
		r     Reservation
		kind  uint8
		value string
	)
	if err := s.prepared.Row(ctx, query, a.args(), &kind, &value, &r.Batch, &r.New); err != nil {
		return Reservation{}, err
	}
	var err error
	r.Identity, err = identity.FromValue(identity.Type(kind), value)
	return r, err
}

// why tells why no row was taken: ErrBusy where it may be otherwise by now.
func (s *Store) why(ctx context.Context, a reservation) error {
	const inRange = `exists (select from waiting join unnest($2::text[], $3::text[]) r(low, high) on waiting.value between r.low and r.high
		where line = $1 and reserved is null`
	query := `
select exists (select from waiting where line = $1 and reserved is null), ` + inRange + `),
	exists (select from waiting where record_id = $4 and generation = $5 and reserved is not null), `
	if len(a.keys) > 0 {
		query += inRange + reserveKeys + `)`
	} else {
		query += `true`
	}
	var free, inside, had, ready bool
	if err := s.prepared.Row(ctx, query, a.args(), &free, &inside, &had, &ready); err != nil {
		return err
	}
	switch {
	case inside && !ready && !had:
		return ErrNoKeys
	case inside, had: // had: another call for the same device took the last one
		return ErrBusy
	case free:
		return ErrOutOfRange
	}
	return ErrEmpty
}

// Use ends an identity's wait: its device is published, so the row is deleted
// and counted as used. The records have noted the publication before. Again is a
// no-op, as is an identity that the pool never had; a free one is ErrNotReserved.
//
// A crash before it leaves the row reserved, and whoever finds its device
// published calls Use.
func (s *Store) Use(ctx context.Context, id identity.Identity) error {
	const query = `
with gone as (
	delete from waiting where type = $1 and value = $2 and reserved is not null returning batch
), counted as (
	update batch b set reserved = b.reserved - 1, used = used + 1 from gone where b.id = gone.batch
)
select (select count(*) from gone), (select count(*) from waiting where type = $1 and value = $2 and reserved is null)`
	var gone, free int
	err := s.prepared.Row(ctx, query, []any{int64(id.Type()), id.Value()}, &gone, &free)
	if err == nil && free > 0 {
		err = ErrNotReserved
	}
	if err != nil {
		return fmt.Errorf("use identity %q: %w", id, err)
	}
	return nil
}

// UseAll is Use for many identities in one statement; which of them the pool did
// not have reserved it does not tell.
func (s *Store) UseAll(ctx context.Context, ids []identity.Identity) error {
	const query = `
with named as (
	select w.type, w.value from unnest((select $1::smallint[]), (select $2::text[])) n(type, value)
	join waiting w on w.type = n.type and w.value = n.value and w.reserved is not null
	order by w.type, w.value for update of w
), gone as (
	delete from waiting w using named n where w.type = n.type and w.value = n.value returning w.batch
), sums as (
	select batch, count(*) as n from gone group by batch order by batch
)
update batch b set reserved = b.reserved - s.n, used = used + s.n from sums s where b.id = s.batch`
	types, values := make([]int64, len(ids)), make([]string, len(ids))
	for i, id := range ids {
		types[i], values[i] = int64(id.Type()), id.Value()
	}
	if _, err := s.prepared.Exec(ctx, query, pq.Array(types), pq.Array(values)); err != nil {
		return fmt.Errorf("use %d identities: %w", len(ids), err)
	}
	return nil
}

// Burn ends the wait of an identity that nobody may get, reserved or free: the
// row is deleted and counted as burned, the reason kept. The records have noted it
// before. Again, or for an identity that the pool never had, is a no-op.
//
// A crash before it leaves the row as it was, and whoever burns does it again.
func (s *Store) Burn(ctx context.Context, id identity.Identity, reason string) error {
	if reason == "" {
		return fmt.Errorf("burn identity %q: a reason is needed", id)
	}
	const query = `
with gone as (
	delete from waiting where type = $1 and value = $2 returning batch, reserved is not null as held
), noted as (
	insert into burned (type, value, batch, reason) select $1, $2, batch, $3 from gone
), counted as (
	update batch b set reserved = b.reserved - held::int, free = free - (not held)::int, burned = burned + 1
	from gone where b.id = gone.batch
)
select count(*) from gone`
	var gone int
	if err := s.prepared.Row(ctx, query, []any{int64(id.Type()), id.Value(), reason}, &gone); err != nil {
		return fmt.Errorf("burn identity %q: %w", id, err)
	}
	return nil
}
