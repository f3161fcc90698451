package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"math"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry"
)

// Reader looks entries up. It is safe for concurrent use and implements
// registry.Source; its connections may lead to a replica.
type Reader struct {
	db                      *sql.DB
	newest, batch, at, scan *database.Lookup
	certificates, directory *database.Lookup
}

// Row is an entry as it is stored.
type Row struct {
	registry.Stored
	SealedHash [sha256.Size]byte
	Erased     bool // the sealed record, or what a certificates entry has in its place, is gone; the entry's other fields stand
}

const columns = `e.seq, e.realm, e.type, e.record_id, e.generation, e.sealed, e.sealed_hash, e.statement, e.leaf_hash`

const (
	newestQuery = `select ` + columns + ` from entry e where record_id = $1 and type <> 5 order by generation desc, seq desc limit 1`

	batchQuery = `select ` + columns + `
from generate_series(0, $2::int - 1) o
cross join lateral (select * from entry where record_id = substring($1::bytea from 32 * o + 1 for 32) and type <> 5
	order by generation desc, seq desc limit 1) e`

	atQuery = `select ` + columns + ` from entry e where record_id = $1 and generation = $2 order by type`

	// Of a device that was scrapped, or has a newer generation, nothing is given, and nothing of a generation that was erased.
	current = ` and not exists (select from entry s where s.record_id = e.record_id
	and (s.type = 3 or s.type = 4 and s.generation = e.generation or s.type in (1, 2) and s.generation > e.generation))`

	certificatesQuery = `select ` + columns + ` from entry e where e.record_id = $1 and e.type = 5` + current + ` order by e.generation desc limit 1`

	// The last entry among those that hold: one of a device that is out of use may come after that of the identity's next one.
	directoryQuery = `select ` + columns + ` from directory d join entry e on e.seq = d.seq where d.urn = $1` + current + ` order by d.seq desc limit 1`

	rangeQuery = `select ` + columns + ` from entry e where seq >= $1 and seq < $1 + $2::bigint order by seq`
)

// NewReader makes a reader, whose queries it prepares to see that the schema has what they need.
func NewReader(ctx context.Context, db *sql.DB) (*Reader, error) {
	r := &Reader{db: db}
	for _, p := range []struct {
		lookup **database.Lookup
		text   string
	}{{&r.newest, newestQuery}, {&r.batch, batchQuery}, {&r.at, atQuery}, {&r.scan, rangeQuery}, {&r.certificates, certificatesQuery}, {&r.directory, directoryQuery}} {
		l, err := database.NewLookup(ctx, db, p.text)
		if err != nil {
			return nil, fmt.Errorf("prepare the registry's lookups: %w", err)
		}
		*p.lookup = l
	}
	return r, nil
}

// Newest implements registry.Source.
func (r *Reader) Newest(ctx context.Context, ids []identity.RecordID) (map[identity.RecordID]registry.Stored, error) {
	var found []Row
	var err error
	if len(ids) == 1 {
		found, err = collect(ctx, r.newest, ids[0][:])
	} else {
		blob := make([]byte, 0, len(ids)*len(identity.RecordID{}))
		for _, id := range ids {
			blob = append(blob, id[:]...)
		}
		found, err = collect(ctx, r.batch, blob, int64(len(ids)))
	}
	if err != nil {
		return nil, fmt.Errorf("look up %d records: %w", len(ids), err)
	}
	out := make(map[identity.RecordID]registry.Stored, len(found))
	for _, row := range found {
		if err := row.held(); err != nil {
			return nil, fmt.Errorf("look up record %s: %w", row.Entry.Record.Short(), err)
		}
		out[row.Entry.Record] = row.Stored
	}
	return out, nil
}

// At implements registry.Source.
func (r *Reader) At(ctx context.Context, id identity.RecordID, g identity.Generation) (registry.Stored, error) {
	found, err := collect(ctx, r.at, id[:], int64(g))
	if err != nil {
		return registry.Stored{}, fmt.Errorf("look up record %s, generation %d: %w", id.Short(), g, err)
	}
	record := -1
	for i, row := range found {
		if row.Entry.Type == registry.Erase || row.Erased {
			return registry.Stored{}, registry.ErrErased
		}
		if row.Entry.Type.HasRecord() {
			record = i
		}
	}
	if record < 0 {
		return registry.Stored{}, registry.ErrNotFound
	}
	return found[record].Stored, nil
}

// Certificates implements registry.PublicSource.
func (r *Reader) Certificates(ctx context.Context, id identity.RecordID) (registry.Stored, error) {
	s, err := one(ctx, r.certificates, id[:])
	if err != nil {
		return s, fmt.Errorf("look up certificates of record %s: %w", id.Short(), err)
	}
	return s, nil
}

// Directory implements registry.PublicSource.
func (r *Reader) Directory(ctx context.Context, urn string) (registry.Stored, error) {
	s, err := one(ctx, r.directory, urn)
	if err != nil {
		return s, fmt.Errorf("look up %.64q in the directory: %w", urn, err)
	}
	return s, nil
}

func one(ctx context.Context, l *database.Lookup, args ...any) (registry.Stored, error) {
	found, err := collect(ctx, l, args...)
	if err == nil && len(found) == 0 {
		err = registry.ErrNotFound
	}
	if err == nil {
		err = found[0].held()
	}
	if err != nil {
		return registry.Stored{}, err
	}
	return found[0].Stored, nil
}

// Range gives up to limit entries from a sequence number on, in order: what an
// auditor or a mirror walks through.
func (r *Reader) Range(ctx context.Context, from int64, limit int) ([]Row, error) {
	found, err := collect(ctx, r.scan, from, int64(limit))
	if err != nil {
		return nil, fmt.Errorf("read entries from %d on: %w", from, err)
	}
	for i, row := range found {
		if row.Sequence != from+int64(i) {
			return nil, fmt.Errorf("read entries from %d on: %w: entry %d is missing", from, ErrDamaged, from+int64(i))
		}
	}
	return found, nil
}

// Size gives the number of entries.
func (r *Reader) Size(ctx context.Context) (int64, error) { return readHead(ctx, r.db) }

// Check implements registry.Source.
func (r *Reader) Check(ctx context.Context) error {
	_, err := r.Size(ctx)
	return err
}

// held fails where the payload is gone and the entry was found all the same. Erasing appends the erase entry
// first, and what it erases isn't found by Newest, Certificates and Directory any more.
func (r Row) held() error {
	if r.Erased {
		return fmt.Errorf("%w: entry %d was erased, and no erase entry stands", ErrDamaged, r.Sequence)
	}
	return nil
}

func collect(ctx context.Context, l *database.Lookup, args ...any) ([]Row, error) {
	var out []Row
	err := l.Rows(ctx, func(values []driver.Value) error {
		row, err := readRow(values)
		out = append(out, row)
		return err
	}, args...)
	return out, err
}

// readRow reads a row with the values of columns, and checks it against its own hashes.
func readRow(values []driver.Value) (Row, error) {
	v := cells{values: values}
	var row Row
	e := &row.Entry
	row.Sequence = v.integer(math.MaxInt64)
	e.Realm = identity.Realm(v.integer(math.MaxUint8))
	e.Type = registry.EntryType(v.integer(math.MaxUint8))
	v.fixed(e.Record[:])
	e.Generation = identity.Generation(v.integer(int64(identity.MaxGeneration)))
	e.Sealed = v.bytes()
	v.fixed(row.SealedHash[:])
	e.Statement = v.bytes()
	v.fixed(row.LeafHash[:])
	if v.err != nil {
		return Row{}, fmt.Errorf("entry %d: %w", row.Sequence, v.err)
	}
	row.Erased = !e.Type.HasStatement() && e.Sealed == nil
	if !row.Erased && sha256.Sum256(e.Sealed) != row.SealedHash {
		return Row{}, fmt.Errorf("entry %d: %w: the sealed record is not the one that was accepted", row.Sequence, ErrDamaged)
	}
	if registry.HashLeaf(e.LeafOver(row.SealedHash)) != row.LeafHash {
		return Row{}, fmt.Errorf("entry %d: %w: its leaf hash is another one's", row.Sequence, ErrDamaged)
	}
	return row, nil
}
