// Package pooltest gives tests a database `pool` of their own: real Postgres,
// real roles, migrated, dropped at the end. Package recordstest does the same for
// `records`, on the same Database. Both are for tests alone.
package pooltest

import (
	"context"
	"database/sql"
	"testing"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/deploy/postgres"
	"github.com/devicekeys/devicekeys/provisioning/pool"
)

// Pool is one test's identity pool.
type Pool struct {
	*Database
	Store *pool.Store // as role spp
}

// New makes the database. Without Postgres the test is skipped, in CI it fails.
func New(t testing.TB) *Pool {
	t.Helper()
	d := NewDatabase(t, "pool", "spp", "auditor")
	if err := pool.Migrate(t.Context(), d.AsOwner()); err != nil {
		t.Fatal(err)
	}
	return &Pool{d, pool.New(d.As("spp"))}
}

// Database is one test's database. It is not safe for concurrent use; what its
// methods give is.
type Database struct {
	Name string

	t      testing.TB
	server *postgres.Server
	place  *postgres.TestDatabase
	open   map[string]*sql.DB
}

// NewDatabase makes an empty database that the roles may connect to.
func NewDatabase(t testing.TB, name string, roles ...string) *Database {
	t.Helper()
	d := &Database{t: t, server: postgres.ForTest(t), open: map[string]*sql.DB{}}
	d.place = d.server.TestDatabase(t, name)
	d.Name = d.place.Name
	for _, role := range roles {
		d.place.As(role)
	}
	return d
}

// As connects as a role: spp, auditor and so on.
func (d *Database) As(role string) *sql.DB {
	d.t.Helper()
	return d.connect(role, func() database.Config { return d.Config(role) })
}

// AsOwner connects as the role that owns the schema.
func (d *Database) AsOwner() *sql.DB {
	d.t.Helper()
	return d.As(d.place.Owner)
}

// AsSuperuser connects as the one whom nothing in the schema holds back: to plant
// what a test then finds.
func (d *Database) AsSuperuser() *sql.DB {
	d.t.Helper()
	return d.connect("postgres", func() database.Config {
		return database.Config{DSN: d.server.DSN(d.Name, "postgres"), PasswordFile: d.server.SuperuserPasswordFile()}
	})
}

// Config tells how a role connects, for programs under test.
func (d *Database) Config(role string) database.Config {
	d.t.Helper()
	dsn, password := d.place.As(role)
	return database.Config{DSN: dsn, PasswordFile: password}
}

func (d *Database) connect(role string, how func() database.Config) *sql.DB {
	d.t.Helper()
	if db, ok := d.open[role]; ok {
		return db
	}
	db, err := database.Open(context.Background(), how())
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { db.Close() })
	d.open[role] = db
	return db
}
