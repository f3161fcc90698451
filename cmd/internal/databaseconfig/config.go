// Package databaseconfig is the section of a program's configuration that names a database. Every program that has
// one spells it the same way:
//
//	records:
//	  dsn: host=/run/devicekeys dbname=records user=spp sslmode=disable
//	  password_file: role-spp.password
//
// The password is in a file of its own; a DSN that holds one is refused. Where the database fails over the DSN names all
// servers, and the program follows the primary:
//
//	dsn: host=db1,db2,db3 dbname=records user=spp sslmode=verify-full sslrootcert=/etc/devicekeys/db-ca.pem target_session_attrs=read-write connect_timeout=2
package databaseconfig

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/database"
)

// Config names a database and the role that the program enters it as.
type Config struct {
	DSN          string       `yaml:"dsn" required:"true" example:"host=/run/devicekeys dbname=NAME user=ROLE sslmode=disable" help:"Keys and values as of libpq, without a password. Where the database fails over: host=db1,db2,db3 target_session_attrs=read-write connect_timeout=2."`
	PasswordFile console.Path `yaml:"password_file" example:"role.password" help:"File of mode 0400 with the role's password, or \"fd:3\". Left out: client certificates, by sslcert and sslkey in the dsn."`
	MaxConns     int          `yaml:"max_conns" example:"16" help:"Connections open at once, 1 to 200. Left out: what suits the program."`
}

// maxConns is what a configuration may ask for: above it, Postgres spends its time on connections.
const maxConns = 200

// Validate checks the values once the configuration is read (console.LoadConfig calls it).
func (c Config) Validate() error {
	if c.MaxConns < 0 || c.MaxConns > maxConns {
		return fmt.Errorf("max_conns is %d: 1 to %d are allowed", c.MaxConns, maxConns)
	}
	return nil
}

// Open connects. conns is how many connections suit the program, used where the configuration has no max_conns.
func (c Config) Open(ctx context.Context, conns int) (*sql.DB, error) {
	if c.MaxConns > 0 {
		conns = c.MaxConns
	}
	return database.Open(ctx, database.Config{DSN: c.DSN, PasswordFile: c.PasswordFile.String(), MaxConns: conns})
}

// OpenAt connects and refuses a schema older than the migrations that this program knows; next says what to do then.
func (c Config) OpenAt(ctx context.Context, conns int, migrations fs.FS, next string) (*sql.DB, error) {
	db, err := c.Open(ctx, conns)
	if err != nil {
		return nil, err
	}
	version, err := database.Latest(migrations)
	if err == nil {
		err = database.RequireSchema(ctx, db, version)
	}
	if err != nil {
		return nil, errors.Join(console.Hint(err, "%s", next), db.Close())
	}
	return db, nil
}
