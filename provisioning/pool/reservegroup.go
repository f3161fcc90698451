package pool

import (
	"context"
	"fmt"
	"slices"

	"github.com/lib/pq"

	"github.com/devicekeys/devicekeys/identity"
)

// reserveTogether takes identities for several devices in one statement, as Reserve does for
// each, where they want the same: line, ranges and keys. Those that want something else, or for
// whom none is left that nobody has locked, go alone.
//
// The counts of a batch are one row that every reservation changes: here it is locked
// once for all of them, which is what lets many SPPs fill one line from one batch.
func (s *Store) reserveTogether(ctx context.Context, all []reservation) ([]*Reservation, error) {
	results := make([]*Reservation, len(all))
	var left []int
	for i := range all {
		left = append(left, i)
	}
	for len(left) > 0 {
		first := all[left[0]]
		var same, others []int
		for _, i := range left {
			if all[i].wants(first) {
				same = append(same, i)
			} else {
				others = append(others, i)
			}
		}
		if len(same) > 1 {
			if err := s.reserveSame(ctx, all, same, results); err != nil {
				return nil, err
			}
		}
		left = others
	}
	return results, nil
}

// wants tells whether a reservation wants what another one does.
func (a reservation) wants(b reservation) bool {
	return a.line == b.line && slices.Equal(a.within, b.within) && slices.Equal(a.keys, b.keys)
}

// deviceID names what an identity is reserved for.
type deviceID struct {
	record identity.RecordID
	g      identity.Generation
}

func (s *Store) reserveSame(ctx context.Context, all []reservation, same []int, results []*Reservation) error {
	place := map[deviceID]int{}
	var records [][]byte
	var generations []int64
	for _, i := range same {
		id := deviceID{all[i].record, all[i].g}
		if _, twice := place[id]; twice {
			continue // it goes alone, and finds what the other got
		}
		place[id] = i
		records, generations = append(records, id.record[:]), append(generations, int64(id.g))
	}
	args := all[same[0]].args()
	args[3], args[4] = pq.Array(records), pq.Array(generations)
	return s.prepared.Each(ctx, func(scan func(...any) error) error {
		var (
			r      Reservation
			id     deviceID
			record []byte
			kind   uint8
			value  string
		)
		if err := scan(&record, &id.g, &kind, &value, &r.Batch, &r.New); err != nil {
			return err
		}
		copy(id.record[:], record)
		i, ok := place[id]
		if !ok {
			return fmt.Errorf("an identity was reserved for record %s, generation %d, which nobody asked for", id.record.Short(), id.g)
		}
		var err error
		if r.Identity, err = identity.FromValue(identity.Type(kind), value); err != nil {
			return err
		}
		results[i] = &r
		return nil
	}, all[same[0]].queryTogether(), args...)
}

// queryTogether gives the statement for several devices. The arrays stand in queries of
// their own, lest Postgres plans anew for each length.
func (a reservation) queryTogether() string {
	q := `
with want as materialized (
	select * from unnest((select $4::bytea[]), (select $5::bigint[])) with ordinality w(record_id, generation, place)
), had as materialized (
	select w.record_id, w.generation, h.type, h.value, h.batch
	from want w join waiting h on h.record_id = w.record_id and h.generation = w.generation and h.reserved is not null
), fresh as materialized (
	select record_id, generation, row_number() over (order by place) as n from want w
	where not exists (select from had h where h.record_id = w.record_id and h.generation = w.generation)
), free as materialized (
	select w.type, w.value, r.place from unnest((select $2::text[]), (select $3::text[])) with ordinality r(low, high, place)
	cross join lateral (
		select type, value from waiting
		where line = $1 and reserved is null and value between r.low and r.high`
	if len(a.keys) > 0 {
		q += reserveKeys
	}
	return q + `
		order by value limit (select count(*) from fresh) for update skip locked
	) w
), pick as materialized ( -- ranges may overlap
	select type, value, row_number() over (order by min(place), value) as n from free group by type, value
), taken as (
	update waiting w set record_id = f.record_id, generation = f.generation, reserved = clock_timestamp()
	from pick p join fresh f on f.n = p.n where w.type = p.type and w.value = p.value
	returning w.record_id, w.generation, w.type, w.value, w.batch
), sums as (
	select batch, count(*) as n from taken group by batch order by batch
), counted as (
	update batch b set free = free - s.n, reserved = b.reserved + s.n from sums s where b.id = s.batch
)
select record_id, generation, type, value, batch, true from taken
union all select record_id, generation, type, value, batch, false from had`
}
