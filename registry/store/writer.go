package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"

	"github.com/lib/pq"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry"
)

// MaxBatchBytes bounds what one Append may carry, in bytes of sealed records:
// two of the largest submissions, and far below what Postgres takes in one parameter.
const MaxBatchBytes = 2 * registry.MaxSubmission

// ErrHeadMoved says that the head is not where its writer left it: another
// writer is at work, or the database was set back. Who gets it must stop.
var ErrHeadMoved = errors.New("the registry's head was moved by another writer")

// New is an entry to append.
type New struct {
	Entry      registry.Entry
	SealedHash [sha256.Size]byte // of Entry.Sealed
	LeafHash   [sha256.Size]byte
}

// Standing is what stands of a record, without the record itself.
type Standing struct {
	Record     identity.RecordID
	Generation identity.Generation
	Type       registry.EntryType
	Sequence   int64
	SealedHash [sha256.Size]byte
	LeafHash   [sha256.Size]byte
	Statement  []byte
}

// Writer appends. There is one per registry, and one goroutine uses it at a time.
type Writer struct {
	db       *sql.DB
	prepared *database.Statements
	blob     []byte // what insert sent last, kept for the next
}

// maxBlob is how long a blob may be and be kept, in bytes: that of a thousand usual entries is.
const maxBlob = 4 << 20

// NewWriter makes a writer that connects as the sequencer's role.
func NewWriter(db *sql.DB) *Writer { return &Writer{db: db, prepared: database.NewStatements(db)} }

// Head gives the number of entries.
func (w *Writer) Head(ctx context.Context) (int64, error) { return readHead(ctx, w.db) }

func readHead(ctx context.Context, db *sql.DB) (int64, error) {
	var size int64
	if err := db.QueryRowContext(ctx, `select size from head where id = 1`).Scan(&size); err != nil {
		return 0, fmt.Errorf("read the registry's head: %w", err)
	}
	return size, nil
}

// Realm gives the realm of the last entry, 0 where there is none.
func (w *Writer) Realm(ctx context.Context) (identity.Realm, error) {
	var realm identity.Realm
	err := w.db.QueryRowContext(ctx, `select realm from entry order by seq desc limit 1`).Scan(&realm)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, fmt.Errorf("read the registry's realm: %w", err)
	}
	return realm, nil
}

// Append appends, in one transaction, the entries that choose returns when it
// sees all that stands of the given records. head is the number of entries as
// this writer knows it; the new one is returned. choose has no effect outside:
// the transaction may be repeated.
//
// ErrHeadMoved: nothing was written, and nothing may be written by this writer
// any more. database.ErrCommitUnknown: it may have been written; call Settle
// before the next Append. Any other error: nothing was written.
func (w *Writer) Append(ctx context.Context, head int64, records []identity.RecordID, choose func([]Standing) []New) (int64, error) {
	size := head
	// Before the transaction, which has a connection, so that one is enough.
	into, err := w.prepared.Prepare(ctx, insertQuery)
	if err != nil {
		return 0, fmt.Errorf("append to the registry: %w", err)
	}
	err = database.InTx(ctx, w.db, nil, func(tx *sql.Tx) error {
		// The lock keeps every other writer out until the end of the transaction.
		if err := lockHead(ctx, tx, head); err != nil {
			return err
		}
		standing, err := standing(ctx, tx, records)
		if err != nil {
			return fmt.Errorf("read what stands: %w", err)
		}
		entries := choose(standing)
		size = head + int64(len(entries))
		if len(entries) == 0 {
			return nil
		}
		if err := w.insert(ctx, tx.StmtContext(ctx, into), head, entries); err != nil {
			return fmt.Errorf("insert %d entries: %w", len(entries), err)
		}
		if err := list(ctx, tx, head, entries); err != nil {
			return fmt.Errorf("list identities in the directory: %w", err)
		}
		return nil
	})
	// A crash during the commit leaves all of the batch or nothing. The next
	// start reads the head; submitters ask again and find what stands.
	if err != nil {
		return 0, fmt.Errorf("append to the registry: %w", err)
	}
	return size, nil
}

func lockHead(ctx context.Context, tx *sql.Tx, want int64) error {
	var have int64
	if err := tx.QueryRowContext(ctx, `select size from head where id = 1 for update`).Scan(&have); err != nil {
		return fmt.Errorf("lock the head: %w", err)
	}
	if have != want {
		return fmt.Errorf("%w: it is %d, this writer left it at %d", ErrHeadMoved, have, want)
	}
	return nil
}

// standingQuery is planned each time: a plan made while the table was small would read all of a large one.
const standingQuery = `
select e.record_id, e.generation, e.type, e.seq, e.sealed_hash, e.leaf_hash, e.statement
from generate_series(0, $2::int - 1) o
join entry e on e.record_id = substring($1::bytea from 32 * o + 1 for 32)`

func standing(ctx context.Context, tx *sql.Tx, records []identity.RecordID) ([]Standing, error) {
	blob := make([]byte, 0, len(records)*len(identity.RecordID{}))
	for _, r := range records {
		blob = append(blob, r[:]...)
	}
	rows, err := tx.QueryContext(ctx, standingQuery, blob, len(records))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Standing
	for rows.Next() {
		var s Standing
		var record, sealed, leaf []byte
		if err := rows.Scan(&record, &s.Generation, &s.Type, &s.Sequence, &sealed, &leaf, &s.Statement); err != nil {
			return nil, err
		}
		if err := fixed(record, s.Record[:], sealed, s.SealedHash[:], leaf, s.LeafHash[:]); err != nil {
			return nil, fmt.Errorf("entry %d: %w", s.Sequence, err)
		}
		out = append(out, s)
	}
	return out, rows.Err()
}

// fixed copies pairs of byte strings into arrays of the same length.
func fixed(pairs ...[]byte) error {
	for i := 0; i < len(pairs); i += 2 {
		if copy(pairs[i+1], pairs[i]) != len(pairs[i]) || len(pairs[i]) != len(pairs[i+1]) {
			return fmt.Errorf("%w: %d bytes where %d are expected", ErrDamaged, len(pairs[i]), len(pairs[i+1]))
		}
	}
	return nil
}

// insertQuery moves the head and cuts all rows out of one binary parameter: one round trip and one
// plan for a batch of any size. Where the head is not there, nothing is inserted.
const insertQuery = `
with moved as (update head set size = $9 where id = 1 and size = $1::bigint returning size)
insert into entry (seq, realm, type, record_id, generation, sealed, sealed_hash, statement, leaf_hash)
select $1::bigint + o - 1, realm, type,
       substring($2::bytea from a for 32), generation,
       case when s > 0 then substring($2::bytea from a + 96 for s) end,
       substring($2::bytea from a + 32 for 32),
       case when t > 0 then substring($2::bytea from a + 96 + s for t) end,
       substring($2::bytea from a + 64 for 32)
from unnest($3::smallint[], $4::smallint[], $5::bigint[], $6::int[], $7::int[], $8::int[])
     with ordinality u(realm, type, generation, a, s, t, o)
where exists (select from moved)`

// insert appends entries and moves the head from first on, by their number.
func (w *Writer) insert(ctx context.Context, into *sql.Stmt, first int64, entries []New) error {
	var (
		blob                          []byte
		realms, types, starts, ss, ts pq.Int32Array
		generations                   pq.Int64Array
		size                          int
	)
	for _, n := range entries {
		size += 3*sha256.Size + len(n.Entry.Sealed) + len(n.Entry.Statement)
	}
	if size > MaxBatchBytes {
		return fmt.Errorf("%d bytes, at most %d go in one transaction", size, MaxBatchBytes)
	}
	// Postgres has a copy of it when the statement returns.
	if blob = w.blob[:0]; cap(blob) < size {
		blob = make([]byte, 0, size)
	}
	if w.blob = blob; cap(blob) > maxBlob {
		w.blob = nil
	}
	for _, n := range entries {
		realms = append(realms, int32(n.Entry.Realm))
		types = append(types, int32(n.Entry.Type))
		generations = append(generations, int64(n.Entry.Generation))
		starts = append(starts, int32(len(blob)+1)) // SQL counts from 1
		ss = append(ss, int32(len(n.Entry.Sealed)))
		ts = append(ts, int32(len(n.Entry.Statement)))
		blob = append(blob, n.Entry.Record[:]...)
		blob = append(blob, n.SealedHash[:]...)
		blob = append(blob, n.LeafHash[:]...)
		blob = append(blob, n.Entry.Sealed...)
		blob = append(blob, n.Entry.Statement...)
	}
	result, err := into.ExecContext(ctx, first, blob, realms, types, generations, starts, ss, ts, first+int64(len(entries)))
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n != int64(len(entries)) {
		return fmt.Errorf("%w: it was not at %d", ErrHeadMoved, first)
	}
	return nil
}

// list adds to the directory the identities that certificates entries name, in the
// entries' own transaction.
func list(ctx context.Context, tx *sql.Tx, first int64, entries []New) error {
	var urns []string
	var places []int64
	for i, n := range entries {
		if n.Entry.Type != registry.Certificates {
			continue
		}
		p, err := registry.ParsePublicCertificates(n.Entry.Sealed)
		if err != nil {
			return err
		}
		if p.Identity != "" {
			urns, places = append(urns, p.Identity), append(places, first+int64(i))
		}
	}
	if len(urns) == 0 {
		return nil
	}
	_, err := tx.ExecContext(ctx, `insert into directory (urn, seq) select * from unnest($1::text[], $2::bigint[])`, pq.Array(urns), pq.Array(places))
	return err
}

// Settle finds out what became of an Append whose commit's outcome got lost. It
// was to move the head from head and append leaves (their hashes). The answer
// is the head as it is now: head, and nothing was written, or head plus their
// number, and all of them were. Anything else is ErrHeadMoved.
//
// It waits for the head's lock, which the lost transaction holds until the
// server has ended it one way or the other.
func (w *Writer) Settle(ctx context.Context, head int64, leaves [][sha256.Size]byte) (int64, error) {
	size := head
	err := database.InTx(ctx, w.db, nil, func(tx *sql.Tx) error {
		size = head
		err := lockHead(ctx, tx, head)
		if !errors.Is(err, ErrHeadMoved) {
			return err // nil: it did not happen, and now can't any more
		}
		size = head + int64(len(leaves))
		if err := lockHead(ctx, tx, size); err != nil {
			return err
		}
		return compareLeaves(ctx, tx, head, leaves)
	})
	if err != nil {
		return 0, fmt.Errorf("find out the outcome of a lost commit: %w", err)
	}
	return size, nil
}

func compareLeaves(ctx context.Context, tx *sql.Tx, first int64, leaves [][sha256.Size]byte) error {
	rows, err := tx.QueryContext(ctx, `select seq, leaf_hash from entry where seq >= $1 order by seq`, first)
	if err != nil {
		return err
	}
	defer rows.Close()
	next := first
	for rows.Next() {
		var seq int64
		var leaf []byte
		if err := rows.Scan(&seq, &leaf); err != nil {
			return err
		}
		if seq != next || next-first >= int64(len(leaves)) || string(leaf) != string(leaves[next-first][:]) {
			return fmt.Errorf("%w: entry %d is not what this writer appended", ErrHeadMoved, seq)
		}
		next++
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if next != first+int64(len(leaves)) {
		return fmt.Errorf("%w: entry %d is missing", ErrHeadMoved, next)
	}
	return nil
}
