// Package pool is the identity pool: the database in which identities wait,
// batch by batch, until a device takes them. It is the patent's temporary secure
// database, so nothing stays: once a device is published its row is deleted.
//
//	free ──Reserve──▶ reserved ──Use──▶ deleted, counted as used
//	  └──────────────────┴──────Burn──▶ deleted, counted as burned
//
// There is no way back: a reservation that can't be resumed is burned, since
// nobody can prove that no device took the identity. Each change updates its batch's
// counts in the same statement, and a check constraint holds
//
//	imported = free + reserved + used + burned
//
// at every moment. Any number of SPPs may share one pool: a free row is taken
// under a row lock that others skip, and one record and generation has one
// reservation.
//
// Every method may be repeated, so an unknown outcome (a connection lost while
// committing) is settled by calling again.
//
// The pool remembers only what waits. What was ever used or burned the records
// know (package records), and imports are checked there too, by the caller,
// before Import.
//
// A thief who reads the pool learns which identities will be given out next, no
// key. One who writes can stop the line or give a line identities it should not
// have; an identity that the records know is refused there.
package pool

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
	// ErrEmpty says that the product line has no free identity: import a batch.
	ErrEmpty = errors.New("the product line has no free identity: import a batch")
	// ErrOutOfRange says that the product line has free identities, but none in
	// the ranges that the station may use.
	ErrOutOfRange = errors.New("the product line has no free identity in the station's ranges: import a batch for them")
	// ErrBusy says that all free identities are being taken by others at this
	// moment: try again.
	ErrBusy = errors.New("the last free identities are being taken by others: try again")
	// ErrNotReserved says that an identity waits in the pool and nobody reserved it.
	ErrNotReserved = errors.New("the identity is free, not reserved")
	// ErrNameTaken says that there is a batch of that name.
	ErrNameTaken = errors.New("there is a batch of that name already")
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations holds the schema of the database pool, for database.Latest and
// database.RequireSchema.
var Migrations = database.Folder(migrations, "migrations")

// Migrate brings the schema to its newest version and grants each role what it
// needs. db is connected as the database's owner; the roles spp and auditor
// exist. It may be repeated.
func Migrate(ctx context.Context, db *sql.DB) error {
	if _, err := database.Migrate(ctx, db, Migrations); err != nil {
		return fmt.Errorf("database pool: %w", err)
	}
	return nil
}

// Store takes from the pool and fills it, as role spp (auditor: reads). It is
// safe for concurrent use.
type Store struct {
	db       *sql.DB
	prepared *database.Statements
	reserved *database.Group[reservation, Reservation]
}

// New gives the store in the database pool.
func New(db *sql.DB) *Store {
	s := &Store{db: db, prepared: database.NewStatements(db)}
	s.reserved = database.NewGroup(s.reserveTogether)
	return s
}

// Now gives the time by the database's clock, by which reservations are dated.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	now, err := s.prepared.Now(ctx)
	if err != nil {
		return time.Time{}, fmt.Errorf("database pool: %w", err)
	}
	return now, nil
}
