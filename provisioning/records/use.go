package records

import (
	"context"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/lib/pq"
)

// UseState says what became of an identity that left the pool.
type UseState string

// The states of an identity that is known here. None leads back to the pool.
const (
	UseBound    UseState = "bound"    // it is its record's
	UseBurned   UseState = "burned"   // nobody's, for good
	UseReleased UseState = "released" // its chip was scrapped; only a board swap gives it to another
)

// Use is what the records know of one identity.
type Use struct {
	Identity identity.Identity
	Record   identity.RecordID // zero if it was burned before it had one
	Batch    int64
	State    UseState
	Reason   string
}

// lookupPage is how many identities one query looks up.
const lookupPage = 5000

// Uses gives what the records know of each identity, by value; unknown ones are
// missing.
func (s *Store) Uses(ctx context.Context, ids []identity.Identity) (map[string]Use, error) {
	found := map[string]Use{}
	if err := s.uses(ctx, ids, func(u Use) { found[u.Identity.Value()] = u }); err != nil {
		return nil, fmt.Errorf("look up %d identities: %w", len(ids), err)
	}
	return found, nil
}

func (s *Store) uses(ctx context.Context, ids []identity.Identity, each func(Use)) error {
	const query = `select type, value, coalesce(record_id, ''), batch, state, reason
		from identity_use where type = $1 and value = any($2::text[])`
	byType := map[identity.Type][]string{}
	for _, id := range ids {
		byType[id.Type()] = append(byType[id.Type()], id.Value())
	}
	for t, values := range byType {
		for len(values) > 0 {
			n := min(len(values), lookupPage)
			if _, err := s.usePage(ctx, each, query, int64(t), pq.Array(values[:n])); err != nil {
				return err
			}
			values = values[n:]
		}
	}
	return nil
}

// EachUse calls fn with every identity that was ever bound or burned.
func (s *Store) EachUse(ctx context.Context, fn func(Use) error) error {
	const query = `select type, value, coalesce(record_id, ''), batch, state, reason from identity_use
		where (type, value) > ($1, $2) order by type, value limit $3`
	var t identity.Type
	value := ""
	for {
		var failed error
		last := Use{}
		n, err := s.usePage(ctx, func(u Use) {
			last = u
			if failed == nil {
				failed = fn(u)
			}
		}, query, int64(t), value, lookupPage)
		if err != nil {
			return fmt.Errorf("read identities: %w", err)
		}
		if failed != nil || n < lookupPage {
			return failed
		}
		t, value = last.Identity.Type(), last.Identity.Value()
	}
}

func (s *Store) usePage(ctx context.Context, each func(Use), query string, args ...any) (int, error) {
	st, err := s.prepared.Prepare(ctx, query)
	if err != nil {
		return 0, err
	}
	rows, err := st.QueryContext(ctx, args...)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		var (
			u      Use
			t      uint8
			value  string
			record []byte
		)
		if err := rows.Scan(&t, &value, &record, &u.Batch, &u.State, &u.Reason); err != nil {
			return n, err
		}
		if u.Identity, err = identity.FromValue(identity.Type(t), value); err != nil {
			return n, err
		}
		copy(u.Record[:], record)
		each(u)
		n++
	}
	return n, rows.Err()
}

// Burned ends an identity that was given out and can't be used: its reservation
// can't be resumed. The device row, if there is one, is burned with it. An
// identity that is published, or whose entry may be on its way to the registry,
// is refused with ErrConflict. The same again is a no-op.
//
// It comes before pool.Burn. A crash between the two leaves the identity burned
// here and reserved in the pool, which whoever burns does again.
func (s *Store) Burned(ctx context.Context, id identity.Identity, batch int64, reason string) error {
	fail := func(err error) error { return fmt.Errorf("burn identity %q: %w", id, err) }
	if reason == "" {
		return fail(errors.New("a reason is needed"))
	}
	const query = `
with busy as (
	select from device where identity_type = $1 and identity_value = $2
	and (state in ('published', 'shipped', 'superseded', 'quarantined', 'scrapped') or (state = 'restored' and set_aside is null))
), burned as (
	insert into identity_use (type, value, batch, state, reason) select $1, $2, $3, 'burned', $4
	where not exists (select from busy)
	on conflict (type, value) do update set state = 'burned', reason = excluded.reason
		where identity_use.state = 'bound'
	returning type, value
)
update device d set state = 'burned', changed = clock_timestamp() from burned b
where d.identity_type = b.type and d.identity_value = b.value and d.state in ('reserved', 'packaged', 'confirmed', 'restored')`
	if _, err := s.change(ctx, query, int64(id.Type()), id.Value(), batch, reason); err != nil {
		return fail(err)
	}
	var state UseState
	err := s.prepared.Row(ctx, `select state from identity_use where type = $1 and value = $2`, []any{int64(id.Type()), id.Value()}, &state)
	if err != nil {
		return fail(err)
	}
	if state != UseBurned {
		return fail(fmt.Errorf("%w: it is %s, and its device is published or about to be", ErrConflict, state))
	}
	return nil
}
