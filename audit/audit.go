// Package audit is the log of the maker's keys at work: one entry for each use
// of a master, purpose, identity-signing or CA key, committed before the use,
// in the transaction that licenses it. No entry, no act.
//
// The log is a chain of hashes in the database `records`: an entry's hash
// covers the hash before it, its number, its time and its body. Roles can only
// append, through one function; triggers refuse update, delete and truncate to
// the tables' owner too. A superuser can pass both, but not unseen: heads are
// signed by the audit key in the HSM, and who keeps one elsewhere can tell
// whether the log still leads to it (Log.Verify).
//
// Appending locks the head's row until the transaction ends, so transactions
// that append stand in one line: append last, then commit.
//
// What a thief gains: with the right to append, noise, not silence. With the
// tables and the audit key, a history of their own; hence heads are kept
// elsewhere too. An entry holds no secret: key labels, record ids, names of
// people and stations.
//
// The tables are made by the migrations of provisioning/records, whose database
// they share.
package audit

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/identity"
)

// Log reads and appends. It is safe for concurrent use.
type Log struct {
	db    *sql.DB
	realm identity.Realm
}

// New gives the log in the database records; realm is what its heads are
// signed for. The role behind db decides what is allowed: spp and custodian
// append, auditor also reads.
func New(db *sql.DB, realm identity.Realm) *Log { return &Log{db: db, realm: realm} }

// Append adds an entry in a transaction of its own. On return without error it
// is durable and its key may be used. After any error it may not, even if the
// entry was written: that leaves an entry without an act, which the log allows.
func (l *Log) Append(ctx context.Context, e Event) error {
	body, err := e.Encode()
	if err != nil {
		return fmt.Errorf("append to the audit log: %w", err)
	}
	// One statement is one transaction: it is committed when it returns.
	var seq int64
	if err := database.Scan(ctx, l.db.QueryRowContext(ctx, appendQuery, body), &seq); err != nil {
		return fmt.Errorf("append %s to the audit log: %w", e.Kind, err)
	}
	return nil
}

// Append adds an entry in the caller's transaction and gives its number. It is
// the transaction's last statement: it holds the head's lock until the commit.
// The key may be used once that commit has succeeded.
func Append(ctx context.Context, tx *sql.Tx, e Event) (int64, error) {
	body, err := e.Encode()
	if err != nil {
		return 0, fmt.Errorf("append to the audit log: %w", err)
	}
	var seq int64
	if err := tx.QueryRowContext(ctx, appendQuery, body).Scan(&seq); err != nil {
		return 0, fmt.Errorf("append %s to the audit log: %w", e.Kind, err)
	}
	return seq, nil
}

const appendQuery = `select audit_append($1)`

// Head gives the end of the log: the zero Head's Seq where it is empty.
func (l *Log) Head(ctx context.Context) (Head, error) {
	h := Head{Realm: l.realm}
	var hash []byte
	if err := l.db.QueryRowContext(ctx, `select seq, at, hash from audit_head_row`).Scan(&h.Seq, &h.At, &hash); err != nil {
		return Head{}, fmt.Errorf("read the head of the audit log: %w", err)
	}
	return h, fill(h.Hash[:], hash)
}

func fill(to, from []byte) error {
	if len(from) != len(to) {
		return fmt.Errorf("read the audit log: hash of %d bytes, %d are expected", len(from), len(to))
	}
	copy(to, from)
	return nil
}
