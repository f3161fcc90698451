// Package records is the manufacturer's database: one row per device and
// generation, from the moment its identity is reserved; every identity ever
// bound or burned; the chips that were delivered; unlock statements; board swaps;
// revoked stations; operators' orders; incidents. The audit log (package audit)
// shares the database, so that the entry which licenses a use of keys, or stands
// for an order, is committed together with the rows that it is about.
//
// # States
//
// Of one generation of one device:
//
//	planned ⇢ reserved → packaged → confirmed → restored → published ⇄ shipped
//	             ↓          ↓           ↓           ↓ (set aside)  ↓       ↓
//	             └──────────┴───────────┴─────→ burned           superseded (by the next generation)
//
//	all but burned and superseded ⇄ quarantined
//	all of the above → scrapped
//
// Planned is no row of a device: a board swap waits for its chip (Plan), or a listed
// chip was never begun. Burned: the identity is lost with its first generation
// (Burned); a next generation is abandoned, and the identity stays with the one
// in the field (Abandon). Published goes back from shipped by Return. Quarantine
// and Scrap take a record as a whole: all that is on the line or in the field;
// a quarantined row keeps the state before, and with it chip and identity. Scrapped
// is for good, the newest row of a record shows it, and the identity is
// released: only a swap gives it to another chip, whose keys differ.
//
// Every change of state names the states it starts from, in one SQL statement or
// one transaction that locks the rows first, committed when the method returns
// without error. Each method may be repeated, so an unknown outcome (a connection
// lost while committing) is settled by calling again: the same call gives the same
// answer, a differing one fails with ErrConflict. What a crash leaves is therefore
// always a whole state; the comment of each method says who goes on from there.
//
// # Several at once
//
// Any number of SPPs and operators may work on one record. Rows are locked in one
// order: a record's generations, newest first; its chip; the identity; the
// plan; the head of the audit log. A new generation is made (Reserve) only after
// looking at the others under their locks, so a quarantine either finds it or
// prevents it. Unique indexes hold what no lock can, that a chip has one identity,
// bound to it or planned for it, and an identity one chip.
//
// What one SPP's devices do in the same moment shares a statement where it can
// (stepgroup.go): many devices cost few commits, and the head of the audit log is locked
// once for all that are reserved together.
//
// # Between databases
//
// The identity pool is another database. Order: pool.Reserve, then
// Store.Reserve; Store.Published, or Store.Scrap, then pool.Use; Store.Burned, then
// pool.Burn. So at every moment an identity that is active or burned here is not
// free there. A swap and a next generation leave the pool alone: their identity
// left it before.
//
// # Secrecy
//
// No secret is here in clear. Drawn secrets wait sealed under a key in the HSM
// and are emptied at publication, when only the device has them, or when the generation ends before (dead rows and
// backups of the database keep the ciphertext for a while). Chip IDs are here:
// they open registry entries, so the database is private, and no error of this
// package names one. A thief who reads it learns which device has which identity
// and can read their public records, but no key. One who writes can stop the
// line and forge history that the audit log contradicts.
package records

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/database"
)

// Errors of a Store. Anything else is the database's, see database.Transient.
var (
	// ErrNotFound says that there is no such row.
	ErrNotFound = errors.New("no such record")
	// ErrExists says that the generation was reserved before, with other values:
	// read it with Newest and go on from there.
	ErrExists = errors.New("the generation is reserved already")
	// ErrIdentityUsed says that the identity belongs, or belonged, to another
	// device, or was burned.
	ErrIdentityUsed = errors.New("the identity was used before")
	// ErrChipActive says that the chip has an identity, or a generation in
	// work, already.
	ErrChipActive = errors.New("the chip is active already")
	// ErrPointUsed says that a public key of the device is, or was, another
	// one's: SHA-256 of its point stands in the records.
	ErrPointUsed = errors.New("a public key was used before")
	// ErrConflict says that the record is in another state, or that the same
	// step was taken with other values.
	ErrConflict = errors.New("conflict with what is recorded")
	// ErrOutOfUse says that a record is quarantined or scrapped, or its chip
	// contested. It matches ErrConflict too.
	ErrOutOfUse = fmt.Errorf("out of use, %w", ErrConflict)
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations holds the schema of the database records, the audit log's tables
// included, for database.Latest and database.RequireSchema.
var Migrations = database.Folder(migrations, "migrations")

// Migrate brings the schema to its newest version and grants each role what it
// needs. db is connected as the database's owner; the roles spp, auditor and
// custodian exist. It may be repeated.
func Migrate(ctx context.Context, db *sql.DB) error {
	if _, err := database.Migrate(ctx, db, Migrations); err != nil {
		return fmt.Errorf("database records: %w", err)
	}
	return nil
}

// Store reads and writes device records, as role spp (auditor: reads). It is
// safe for concurrent use.
type Store struct {
	db       *sql.DB
	prepared *database.Statements
	groups   groups
}

// New gives the store in the database records.
func New(db *sql.DB) *Store {
	s := &Store{db: db, prepared: database.NewStatements(db)}
	s.groups = s.group()
	return s
}

// Now gives the time by the database's clock, by which rows are dated.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	now, err := s.prepared.Now(ctx)
	if err != nil {
		return time.Time{}, fmt.Errorf("database records: %w", err)
	}
	return now, nil
}
