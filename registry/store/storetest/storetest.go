// Package storetest gives tests a registry database of their own, in a real
// Postgres, with the roles that a deployment has.
package storetest

import (
	"crypto/sha256"
	"database/sql"
	"testing"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/deploy/postgres"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/store"
)

// Database is the registry's database of one test, migrated. It is dropped when
// the test ends.
type Database struct {
	Name  string
	Roles store.Roles

	t  testing.TB
	db *postgres.TestDatabase
}

// New makes a database in the server that the tests of the process share.
func New(t testing.TB) *Database { return In(t, postgres.ForTest(t)) }

// In makes a database in a server: one that the test may kill.
func In(t testing.TB, s *postgres.Server) *Database {
	t.Helper()
	db := s.TestDatabase(t, "registry")
	d := &Database{Name: db.Name, t: t, db: db,
		Roles: store.Roles{Sequencer: "sequencer", Reader: "registry_reader", Auditor: "auditor"}}
	for _, role := range []string{d.Roles.Sequencer, d.Roles.Reader, d.Roles.Auditor} {
		db.As(role) // exists before it is granted anything
	}
	if _, err := store.Migrate(t.Context(), d.Open(db.Owner), d.Roles); err != nil {
		t.Fatal(err)
	}
	return d
}

// Owner is the role that owns the database.
func (d *Database) Owner() string { return d.db.Owner }

// Config tells how to connect as a role.
func (d *Database) Config(role string) database.Config {
	d.t.Helper()
	dsn, file := d.db.As(role)
	return database.Config{DSN: dsn, PasswordFile: file}
}

// Open connects as a role until the test ends.
func (d *Database) Open(role string) *sql.DB {
	d.t.Helper()
	db, err := database.Open(d.t.Context(), d.Config(role))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = db.Close() }) // the database is dropped next
	return db
}

// Reader makes a reader, good until the test ends.
func (d *Database) Reader() *store.Reader {
	d.t.Helper()
	r, err := store.NewReader(d.t.Context(), d.Open(d.Roles.Reader))
	if err != nil {
		d.t.Fatal(err)
	}
	return r
}

// Append puts entries into the database as they are, behind what is there.
func (d *Database) Append(entries ...registry.Entry) {
	d.t.Helper()
	w := store.NewWriter(d.Open(d.Roles.Sequencer))
	head, err := w.Head(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	if _, err := w.Append(d.t.Context(), head, []identity.RecordID{}, func([]store.Standing) []store.New { return Rows(entries...) }); err != nil {
		d.t.Fatal(err)
	}
}

// Rows prepares entries for Append.
func Rows(entries ...registry.Entry) []store.New {
	var out []store.New
	for _, e := range entries {
		out = append(out, store.New{Entry: e, SealedHash: sha256.Sum256(e.Sealed), LeafHash: e.LeafHash()})
	}
	return out
}
