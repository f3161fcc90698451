package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/lib/pq"

	"github.com/devicekeys/devicekeys/database"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations gives goose's files of the registry's schema.
func Migrations() fs.FS {
	return database.Folder(files, "migrations")
}

// Roles are the names of the roles that may use the registry's database. The
// roles exist before; an empty name grants nothing.
type Roles struct {
	Sequencer string // inserts entries, moves the head
	Reader    string // serves lookups
	Auditor   string // checks invariants
}

// Migrate brings the schema to this program's version and then sets the roles'
// rights. db is connected as the owner of the database. Repeating it does no
// harm; a crash in between leaves a schema that nobody may use yet, and the
// next call repairs it.
func Migrate(ctx context.Context, db *sql.DB, roles Roles) (version int64, err error) {
	version, err = database.Migrate(ctx, db, Migrations())
	if err != nil {
		return 0, err
	}
	return version, Grant(ctx, db, roles)
}

// Grant sets the rights of the roles, taking away what they had beyond them.
func Grant(ctx context.Context, db *sql.DB, roles Roles) error {
	if roles.Sequencer != "" && (roles.Sequencer == roles.Reader || roles.Sequencer == roles.Auditor) {
		return fmt.Errorf("grant rights in the registry's database: the role %q would write and read for others: give each its own", roles.Sequencer)
	}
	statements := []string{
		`lock table entry in share row exclusive mode`, // two at once would fail on the same catalogue row
		`revoke all on entry, head, directory from public`,
	}
	for _, r := range []struct {
		name   string
		grants []string
	}{
		{roles.Sequencer, []string{`select, insert on entry`, `select, update (size) on head`, `select, insert on directory`}},
		{roles.Reader, []string{`select on entry, head, directory`}},
		{roles.Auditor, []string{`select on entry, head, directory`}},
	} {
		if r.name == "" {
			continue
		}
		role := pq.QuoteIdentifier(r.name)
		statements = append(statements, `revoke all on entry, head, directory from `+role, `grant usage on schema public to `+role)
		for _, g := range r.grants {
			statements = append(statements, `grant `+g+` to `+role)
		}
	}
	err := database.InTx(ctx, db, nil, func(tx *sql.Tx) error {
		for _, s := range statements {
			if _, err := tx.ExecContext(ctx, s); err != nil {
				return fmt.Errorf("%s: %w", s, err)
			}
		}
		return nil
	})
	if e := pq.As(err); e != nil && e.Code == "42704" {
		return fmt.Errorf("grant rights in the registry's database: %w: create the role first", err)
	}
	if err != nil {
		return fmt.Errorf("grant rights in the registry's database: %w", err)
	}
	return nil
}

// RequireSchema fails unless the database has this program's schema or a newer one.
func RequireSchema(ctx context.Context, db *sql.DB) error {
	latest, err := database.Latest(Migrations())
	if err != nil {
		return err
	}
	return database.RequireSchema(ctx, db, latest)
}

// ErrDamaged says that a row is not what was inserted.
var ErrDamaged = errors.New("a row of the registry's database is damaged: restore it from a replica or backup, and find out who could write")
