package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lib/pq"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/identity"
)

// ErrNoKeys says that identities are free, but not the keys that wait with them.
var ErrNoKeys = errors.New("no identity that is free has its keys")

// ErrPointTaken says that a public key waits already, with another identity or for
// another entry.
var ErrPointTaken = errors.New("one public key for two keys")

// Key is a key that waits with an identity, for one entry of a profile; or a secret
// that is no key, which waits in the same way and is counted as one.
type Key struct {
	Identity identity.Identity
	Entry    string
	Sealed   []byte // keypackage.Sealed in its encoding; bound to batch, identity and entry
	Point    []byte // of a pair, SHA-256 of its public point; empty for a symmetric key and for a secret
}

// WaitingKeys gives the sealed keys that wait with an identity, by entry.
func (s *Store) WaitingKeys(ctx context.Context, id identity.Identity) (map[string][]byte, error) {
	found := map[string][]byte{}
	err := s.prepared.Each(ctx, func(scan func(...any) error) error {
		var entry string
		var sealed []byte
		if err := scan(&entry, &sealed); err != nil {
			return err
		}
		found[entry] = sealed
		return nil
	}, `select entry, sealed from waiting_key where type = $1 and value = $2`, int64(id.Type()), id.Value())
	if err != nil {
		return nil, fmt.Errorf("read the keys that wait with %s: %w", id, err)
	}
	return found, nil
}

// EntriesWithKeys gives, by value, for which entries keys wait with the identities;
// one without keys is not among them. A row that comes meanwhile may be missed.
func (s *Store) EntriesWithKeys(ctx context.Context, ids []identity.Identity) (map[string]map[string]bool, error) {
	found := map[string]map[string]bool{}
	for t, values := range byType(ids) {
		for part := range slices.Chunk(values, page) {
			err := s.prepared.Each(ctx, func(scan func(...any) error) error {
				var value, entry string
				if err := scan(&value, &entry); err != nil {
					return err
				}
				if found[value] == nil {
					found[value] = map[string]bool{}
				}
				found[value][entry] = true
				return nil
			}, `select value, entry from waiting_key where type = $1 and value = any($2::text[])`, int64(t), pq.Array(part))
			if err != nil {
				return nil, fmt.Errorf("look for the keys of %d identities: %w", len(ids), err)
			}
		}
	}
	return found, nil
}

// EachKey calls fn with every key that waits, by identity and entry; fn may query. An
// error of fn ends it.
func (s *Store) EachKey(ctx context.Context, fn func(Key) error) error {
	const query = `select type, value, entry, sealed from waiting_key where (type, value, entry) > ($1, $2, $3) order by type, value, entry limit $4`
	var last struct {
		kind         int64
		value, entry string
	}
	for {
		var part []Key
		err := s.prepared.Each(ctx, func(scan func(...any) error) error {
			var k Key
			var value string
			err := scan(&last.kind, &value, &k.Entry, &k.Sealed)
			if err != nil {
				return err
			}
			last.value, last.entry = value, k.Entry
			k.Identity, err = identity.FromValue(identity.Type(last.kind), value)
			part = append(part, k)
			return err
		}, query, last.kind, last.value, last.entry, keyPage)
		if err != nil {
			return fmt.Errorf("read the keys that wait: %w", err)
		}
		for _, k := range part {
			if err := fn(k); err != nil {
				return err
			}
		}
		if len(part) < keyPage {
			return nil
		}
	}
}

// keyPage is how many rows one query of EachKey reads: two megabytes at most, as the
// table allows 8192 bytes a key.
const keyPage = 256

// Keyless is an identity that waits, free or reserved, without all its keys.
type Keyless struct {
	Identity identity.Identity
	Batch    int64
	Missing  []string // entries
}

// Keyless gives up to limit identities of a product line above the given value,
// in the order of values, that lack a key of the entries.
func (s *Store) Keyless(ctx context.Context, line string, entries []string, above string, limit int) ([]Keyless, error) {
	const query = `
select w.type, w.value, w.batch, array_agg(e.entry order by e.entry)
from (select type, value, batch from waiting where line = $1 and value > $3) w
cross join unnest($2::text[]) e(entry)
where not exists (select from waiting_key k where k.type = w.type and k.value = w.value and k.entry = e.entry)
group by w.type, w.value, w.batch order by w.value limit $4`
	var all []Keyless
	err := s.prepared.Each(ctx, func(scan func(...any) error) error {
		var (
			k     Keyless
			kind  uint8
			value string
		)
		err := scan(&kind, &value, &k.Batch, pq.Array(&k.Missing))
		if err != nil {
			return err
		}
		k.Identity, err = identity.FromValue(identity.Type(kind), value)
		all = append(all, k)
		return err
	}, query, line, pq.Array(entries), above, limit)
	if err != nil {
		return nil, fmt.Errorf("look for identities of line %q without keys: %w", line, err)
	}
	return all, nil
}

// AddKeys keeps keys for identities that wait, and tells how many are new: a key
// that is there stays, and one for an identity that left the pool meanwhile is
// dropped. Where a pair's point waits already, with another identity or for another
// entry, it matches ErrPointTaken and keeps none of the keys. A crash before the commit leaves keys that nobody saw.
func (s *Store) AddKeys(ctx context.Context, keys []Key) (int64, error) {
	const query = `
insert into waiting_key (type, value, entry, sealed, point)
select w.type, w.value, k.entry, k.sealed, nullif(k.point, ''::bytea)
from unnest($1::smallint[], $2::text[], $3::text[], $4::bytea[], $5::bytea[]) k(type, value, entry, sealed, point)
join (select w.type, w.value from waiting w where (w.type, w.value) in (select * from unnest($1::smallint[], $2::text[]))
	order by w.type, w.value for key share) w on w.type = k.type and w.value = k.value
order by w.type, w.value, k.entry
on conflict (type, value, entry) do nothing` // in one order: two that add the same keys wait for each other's rows
	var (
		types           []int64
		values, entries []string
		sealed, points  [][]byte
	)
	for _, k := range keys {
		types, values = append(types, int64(k.Identity.Type())), append(values, k.Identity.Value())
		entries, sealed = append(entries, k.Entry), append(sealed, k.Sealed)
		points = append(points, append([]byte{}, k.Point...)) // never null, which the array would not be told from empty
	}
	n, err := s.prepared.Exec(ctx, query, pq.Array(types), pq.Array(values), pq.Array(entries), pq.Array(sealed), pq.Array(points))
	if constraint, twice := database.UniqueViolation(err); twice && constraint == "waiting_key_point" {
		err = fmt.Errorf("%w: %w", ErrPointTaken, err)
	}
	if err != nil {
		return 0, fmt.Errorf("keep %d keys in the pool: %w", len(keys), err)
	}
	return n, nil
}

// KeyStock counts the keys that wait for one entry of a product line.
type KeyStock struct {
	Line  string `json:"line"`
	Entry string `json:"entry"`
	Ready int64  `json:"ready"` // keys that wait
}

// KeyStock gives the stock of keys, by line and entry.
func (s *Store) KeyStock(ctx context.Context) ([]KeyStock, error) {
	var all []KeyStock
	err := s.prepared.Each(ctx, func(scan func(...any) error) error {
		var k KeyStock
		if err := scan(&k.Line, &k.Entry, &k.Ready); err != nil {
			return err
		}
		all = append(all, k)
		return nil
	}, `select w.line, k.entry, count(*) from waiting_key k join waiting w using (type, value) group by w.line, k.entry order by w.line, k.entry`)
	if err != nil {
		return nil, fmt.Errorf("count the keys that wait: %w", err)
	}
	return all, nil
}
