// Package issued tells the device service what was issued: which identity belongs to which record, in what generation,
// and whether that is in the field. It reads the manufacturer's database `records` through a view of its own, as a role
// that may read that view and the keys wrapped to the service's HSM, and nothing else: no chip ID, of certificates the
// hashes alone, no secret, no audit log.
//
// # Two layers
//
// [Store] asks the database. [Cache] stands before it, so that a busy service does not ask twice for one device within
// seconds, and goes on for a stated time when the database is away. How old an answer may be is part of the service's
// promise: a device that is quarantined or superseded is refused after [Options].Fresh at the latest while the database
// answers, and after [Options].MaxAge at the latest in any case. An identity that was not looked up within that time is
// refused, never accepted unchecked.
//
// # What a thief gains
//
// Who reads as this role learns which identity has which record id, product line and state: as much as a device says of
// itself in clear, for all of them, but no key: wrapped keys open only in the service's HSM. Who writes the table of
// devices can have a quarantined one admitted. A symmetric key is still bound to identity, record and generation, so no
// device becomes another; with key pairs one does whose certificate he writes there, names no other device and stands in
// the registry under the record too.
package issued

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/identity"
)

// Errors of this package. Anything else is the database's.
var (
	// ErrNotIssued says that no such identity or record ever left the line.
	ErrNotIssued = errors.New("not issued")
	// ErrNoKey says that no key of this device was wrapped for the service.
	ErrNoKey = errors.New("no such wrapped key")
	// ErrAway says that the database did not answer and what is remembered is too old: try again.
	ErrAway = errors.New("the records can't be read now")
)

// SchemaVersion is the version of the schema of `records` that this package reads.
const SchemaVersion = 8

// DefaultRole is the role that the schema grants its rights to where it exists.
const DefaultRole = "service"

// maxBlob bounds a wrapped key, in bytes, as the table does.
const maxBlob = 1024

// Device is what was issued: the generation in the field, or, where there is none, the newest that was.
type Device struct {
	Identity   identity.Identity
	Record     identity.RecordID
	Generation identity.Generation
	Realm      identity.Realm
	Line       string // product line
	KDF        uint8  // how its keys are derived from the master key
	Master     uint32 // master key version
	State      string // as in package records: "published", "quarantined", …
	Active     bool   // in the field: published or shipped
	Published  time.Time
	// Certificates are those of its keys, by their hashes. One that was made in advance names no record: here it is
	// tied to it.
	Certificates Certificates
}

// Store reads what was issued. It is safe for concurrent use.
type Store struct {
	prepared *database.Statements
	replica  *replica
}

// New gives the store. db is connected as the service's role.
func New(db *sql.DB) *Store { return NewReplica(db, 0) }

// NewReplica gives the store on a database that may be a replica. Where it lags by more than maxLag, or was cut off from
// its primary for so long, it counts as away: every question is answered with an error that matches ErrLag. On a primary
// nothing lags; 0 asks nothing.
func NewReplica(db *sql.DB, maxLag time.Duration) *Store {
	p := database.NewStatements(db)
	return &Store{p, &replica{prepared: p, most: maxLag}}
}

// RequireSchema refuses a database whose schema is older than what this package reads.
func RequireSchema(ctx context.Context, db *sql.DB) error {
	return database.RequireSchema(ctx, db, SchemaVersion)
}

// Grant gives a role what the service needs. db is connected as the schema's owner. It may be repeated.
func Grant(ctx context.Context, db *sql.DB, role string) error {
	if err := RequireSchema(ctx, db); err != nil {
		return err
	}
	if _, err := db.ExecContext(ctx, `select issued_grant($1)`, role); err != nil {
		return fmt.Errorf("grant the device service's rights to role %q: %w: create the role first, and connect as the owner of the database", role, err)
	}
	return nil
}

const columns = `select identity_type, identity_value, record_id, generation, realm, line, kdf, master_version, state, active, published, certificates from issued `

// newest puts what is in the field first, then what was last.
const newest = ` order by active desc, published desc nulls last, generation desc limit 1`

// Lookup gives what was issued under an identity. It matches ErrNotIssued.
func (s *Store) Lookup(ctx context.Context, id identity.Identity) (Device, error) {
	d, err := s.device(ctx, columns+`where identity_type = $1 and identity_value = $2`+newest, int64(id.Type()), id.Value())
	if err != nil {
		return Device{}, fmt.Errorf("look up an identity, %s: %w", id.Type(), err) // whose, the log need not know
	}
	return d, nil
}

// ByRecord gives what was issued to a chip. It matches ErrNotIssued.
func (s *Store) ByRecord(ctx context.Context, record identity.RecordID) (Device, error) {
	d, err := s.device(ctx, columns+`where record_id = $1`+newest, record[:])
	if err != nil {
		return Device{}, fmt.Errorf("look up record %s: %w", record.Short(), err)
	}
	return d, nil
}

func (s *Store) device(ctx context.Context, query string, args ...any) (Device, error) {
	if err := s.replica.check(ctx); err != nil {
		return Device{}, err
	}
	return bounded(ctx, func(ctx context.Context) (Device, error) {
		var (
			d         Device
			kind      uint8
			value     string
			record    []byte
			published sql.NullTime
			hashes    []byte
		)
		err := s.prepared.Row(ctx, query, args, &kind, &value, &record, &d.Generation, &d.Realm, &d.Line, &d.KDF, &d.Master, &d.State, &d.Active, &published, &hashes)
		if errors.Is(err, sql.ErrNoRows) {
			return Device{}, ErrNotIssued
		}
		if err != nil {
			return Device{}, err
		}
		if d.Identity, err = identity.FromValue(identity.Type(kind), value); err != nil {
			return Device{}, err
		}
		if len(record) != len(d.Record) {
			return Device{}, fmt.Errorf("its record id has %d bytes", len(record))
		}
		copy(d.Record[:], record)
		if d.Certificates, err = parseCertificates(hashes); err != nil {
			return Device{}, err
		}
		d.Published = published.Time
		return d, nil
	})
}

// Key gives an entry's key of one generation of a device, wrapped to the transport key of the service's HSM. It matches
// ErrNoKey.
func (s *Store) Key(ctx context.Context, record identity.RecordID, g identity.Generation, entry string) ([]byte, error) {
	const query = `select blob from service_key where record_id = $1 and generation = $2 and entry = $3`
	err := s.replica.check(ctx)
	var blob []byte
	if err == nil {
		blob, err = bounded(ctx, func(ctx context.Context) (blob []byte, err error) {
			err = s.prepared.Row(ctx, query, []any{record[:], int64(g), entry}, &blob)
			return blob, err
		})
	}
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNoKey
	}
	if err == nil && len(blob) > maxBlob {
		err = fmt.Errorf("%d bytes, at most %d are read", len(blob), maxBlob)
	}
	if err != nil {
		return nil, fmt.Errorf("read wrapped key %q of record %s, generation %d: %w", entry, record.Short(), g, err)
	}
	return blob, nil
}

// Check asks the database for nothing: whether it answers, whether the role may read, and whether it lags (ErrLag).
func (s *Store) Check(ctx context.Context) error {
	if err := s.replica.check(ctx); err != nil {
		return err
	}
	_, err := bounded(ctx, func(ctx context.Context) (none bool, err error) {
		err = s.prepared.Row(ctx, `select exists(select from issued where false) or exists(select from service_key where false)`, nil, &none)
		return none, err
	})
	if err != nil {
		return fmt.Errorf("read what was issued: %w", err)
	}
	return nil
}
