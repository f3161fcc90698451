package records

import (
	"context"
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
