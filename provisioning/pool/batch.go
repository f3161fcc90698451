package pool

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/lib/pq"
)

// Batch is one import and what became of it. Imported is the sum of the four
// numbers after it, at every moment.
type Batch struct {
	ID                                     int64
	Name, Line                             string
	Type                                   identity.Type
	Imported, Free, Reserved, Used, Burned int64
	At                                     time.Time // of the import
}

// Duplicate is an identity that can't be imported, since it waits in the pool or
// was burned there.
type Duplicate struct {
	Identity identity.Identity
	Batch    string // the batch that has it
	Burned   bool
}

// DuplicateError names every identity of an import that waits in the pool or was
// burned there, and the batch that brought it; the error around it names the
// batch that was refused.
type DuplicateError struct{ Duplicates []Duplicate }

// shownDuplicates is how many the error's text names.
const shownDuplicates = 5

func (e *DuplicateError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d identities are in the pool already: ", len(e.Duplicates))
	for i, d := range e.Duplicates[:min(len(e.Duplicates), shownDuplicates)] {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s in batch %q", d.Identity, d.Batch)
		if d.Burned {
			b.WriteString(", burned")
		}
	}
	if more := len(e.Duplicates) - shownDuplicates; more > 0 {
		fmt.Fprintf(&b, " and %d more", more)
	}
	return b.String() + ": remove them from the file"
}

// Limits of an import, in identities and bytes.
const (
	MaxImport = 1_000_000 // identities of one batch: one TAC has as many
	maxName   = 128
	maxLine   = 64
	page      = 10_000 // identities of one statement: some 300 KB
)

// Import adds a batch of free identities to a product line: all, or none. It
// gives a *DuplicateError where some wait in the pool already or were burned there,
// ErrNameTaken where the name is taken. The pool forgets what was used: whether the
// records know one is asked by the caller before (records.Uses, whose batch
// numbers Batches has the names of).
//
// A crash before the commit leaves nothing. One during it may have left the whole batch:
// then doing it again gives ErrNameTaken, and Batches shows it.
func (s *Store) Import(ctx context.Context, name, line string, t identity.Type, ids []identity.Identity) (Batch, error) {
	fail := func(err error) (Batch, error) { return Batch{}, fmt.Errorf("import batch %q: %w", name, err) }
	values, err := checkImport(name, line, t, ids)
	if err != nil {
		return fail(err)
	}
	var b Batch
	err = database.InTx(ctx, s.db, nil, func(tx *sql.Tx) error {
		b = Batch{Name: name, Line: line, Type: t, Imported: int64(len(ids)), Free: int64(len(ids))}
		err := tx.QueryRowContext(ctx, `insert into batch (name, line, type, imported, free) values ($1, $2, $3, $4, $4) returning id, at`,
			name, line, int64(t), len(ids)).Scan(&b.ID, &b.At)
		if err != nil {
			return err
		}
		for part := range slices.Chunk(values, page) {
			if _, err := tx.ExecContext(ctx, `insert into waiting (type, value, batch, line) select $1, v, $2, $3 from unnest($4::text[]) v`,
				int64(t), b.ID, line, pq.Array(part)); err != nil {
				return err
			}
		}
		return refuseBurned(ctx, tx, t, values, ids)
	})
	switch constraint, taken := database.UniqueViolation(err); {
	case taken && constraint == "batch_name_key":
		return fail(ErrNameTaken)
	case taken:
		found, err := s.Find(ctx, ids)
		if err != nil {
			return fail(err)
		}
		e := &DuplicateError{}
		for _, id := range ids {
			if batch, ok := found[id.Value()]; ok {
				e.Duplicates = append(e.Duplicates, Duplicate{id, batch, false})
			}
		}
		if len(e.Duplicates) == 0 {
			return fail(errors.New("some of its identities were in the pool a moment ago: try again"))
		}
		return fail(e)
	case err != nil:
		return fail(err)
	}
	return b, nil
}

// refuseBurned looks for identities of an import that were burned. It comes after
// they were inserted, so that one that is burned at this moment was either still
// waiting then or is seen here.
func refuseBurned(ctx context.Context, tx *sql.Tx, t identity.Type, values []string, ids []identity.Identity) error {
	const query = `select x.value, b.name from burned x join batch b on b.id = x.batch where x.type = $1 and x.value = any($2::text[])`
	found := map[string]string{}
	for part := range slices.Chunk(values, page) {
		rows, err := tx.QueryContext(ctx, query, int64(t), pq.Array(part))
		if err != nil {
			return err
		}
		for rows.Next() {
			var value, name string
			if err := rows.Scan(&value, &name); err != nil {
				rows.Close()
				return err
			}
			found[value] = name
		}
		rows.Close()
		if err := rows.Err(); err != nil {
			return err
		}
	}
	if len(found) == 0 {
		return nil
	}
	e := &DuplicateError{}
	for _, id := range ids {
		if batch, ok := found[id.Value()]; ok {
			e.Duplicates = append(e.Duplicates, Duplicate{id, batch, true})
		}
	}
	return e
}

func checkImport(name, line string, t identity.Type, ids []identity.Identity) ([]string, error) {
	switch {
	case name == "" || len(name) > maxName:
		return nil, fmt.Errorf("the name has %d bytes: 1 to %d are allowed", len(name), maxName)
	case line == "" || len(line) > maxLine:
		return nil, fmt.Errorf("product line %q has %d bytes: 1 to %d are allowed", line, len(line), maxLine)
	case len(ids) == 0 || len(ids) > MaxImport:
		return nil, fmt.Errorf("%d identities: 1 to %d are allowed", len(ids), MaxImport)
	}
	values := make([]string, len(ids))
	seen := make(map[string]bool, len(ids))
	for i, id := range ids {
		if id.Type() != t {
			return nil, fmt.Errorf("identity %q is of type %s, the batch of %s", id, id.Type(), t)
		}
		values[i] = id.Value()
		if seen[values[i]] {
			return nil, fmt.Errorf("identity %q stands twice in the batch", id)
		}
		seen[values[i]] = true
	}
	return values, nil
}

// Find tells which of the identities wait in the pool, free or reserved: value
// → name of the batch.
func (s *Store) Find(ctx context.Context, ids []identity.Identity) (map[string]string, error) {
	const query = `select w.value, b.name from waiting w join batch b on b.id = w.batch where w.type = $1 and w.value = any($2::text[])`
	found := map[string]string{}
	for t, values := range byType(ids) {
		for part := range slices.Chunk(values, page) {
			err := s.prepared.Each(ctx, func(scan func(...any) error) error {
				var value, name string
				if err := scan(&value, &name); err != nil {
					return err
				}
				found[value] = name
				return nil
			}, query, int64(t), pq.Array(part))
			if err != nil {
				return nil, fmt.Errorf("look up %d identities in the pool: %w", len(ids), err)
			}
		}
	}
	return found, nil
}

// Batches gives all batches, oldest first.
func (s *Store) Batches(ctx context.Context) ([]Batch, error) {
	const query = `select id, name, line, type, imported, free, reserved, used, burned, at from batch order by id`
	var all []Batch
	err := s.prepared.Each(ctx, func(scan func(...any) error) error {
		var b Batch
		if err := scan(&b.ID, &b.Name, &b.Line, &b.Type, &b.Imported, &b.Free, &b.Reserved, &b.Used, &b.Burned, &b.At); err != nil {
			return err
		}
		all = append(all, b)
		return nil
	}, query)
	if err != nil {
		return nil, fmt.Errorf("read batches: %w", err)
	}
	return all, nil
}

// Stock is what a product line has.
type Stock struct {
	Line                                   string
	Type                                   identity.Type
	Imported, Free, Reserved, Used, Burned int64
}

// Stock sums the batches by product line and type of identity.
func (s *Store) Stock(ctx context.Context) ([]Stock, error) {
	const query = `select line, type, sum(imported)::bigint, sum(free)::bigint, sum(reserved)::bigint, sum(used)::bigint, sum(burned)::bigint
		from batch group by line, type order by line, type`
	var all []Stock
	err := s.prepared.Each(ctx, func(scan func(...any) error) error {
		var k Stock
		if err := scan(&k.Line, &k.Type, &k.Imported, &k.Free, &k.Reserved, &k.Used, &k.Burned); err != nil {
			return err
		}
		all = append(all, k)
		return nil
	}, query)
	if err != nil {
		return nil, fmt.Errorf("read stock: %w", err)
	}
	return all, nil
}
