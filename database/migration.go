package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"

	"github.com/lib/pq/pqerror"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// Another starter may be migrating: it is waited for this long, in seconds, asking
// every second. Migrations of large tables belong in a maintenance window, with
// a waiting time no service would want.
const (
	lockPeriod   = 1
	lockAttempts = 120
)

// Migrate brings the database to the newest version in migrations, whose root holds
// goose's SQL files (00001_name.sql; "-- +goose Up" and no Down: a schema is never
// taken back). db is connected as the role that owns the schema. It is safe to call from
// several programs at once: one migrates, the others wait, then find nothing to do.
// It returns the version the database is at.
//
// Each file runs in a transaction together with the row that records it, so a crash
// leaves a version between two files, and the next call goes on from there. A
// database newer than migrations is left as it is.
//
// The table of versions is made readable to all who may connect, for
// [RequireSchema].
func Migrate(ctx context.Context, db *sql.DB, migrations fs.FS) (version int64, err error) {
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(lockPeriod, lockAttempts))
	if err != nil {
		return 0, fmt.Errorf("migrate: %w", err)
	}
	p, err := provider(db, migrations, goose.WithSessionLocker(locker))
	if err != nil {
		return 0, err
	}
	if _, err := p.Up(ctx); err != nil {
		if code(err) == pqerror.InsufficientPrivilege {
			return 0, fmt.Errorf("migrate: %w: connect as the role that owns the database", err)
		}
		var partial *goose.PartialError
		if errors.As(err, &partial) && partial.Failed != nil && partial.Failed.Source != nil {
			return 0, fmt.Errorf("migrate: file %q failed and is taken back: %w", partial.Failed.Source.Path, err)
		}
		return 0, fmt.Errorf("migrate: %w", err)
	}
	// A crash before this grant leaves services unable to read the version, which
	// they report; the next call grants it. It is done only where needed, since two at once
	// would fail on the same catalogue row.
	err = InTx(ctx, db, nil, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `lock table `+goose.DefaultTablename+` in share row exclusive mode`); err != nil {
			return err
		}
		var readable bool
		const query = `select exists(select from information_schema.table_privileges
			where table_schema = current_schema() and table_name = $1 and grantee = 'PUBLIC' and privilege_type = 'SELECT')`
		if err := tx.QueryRowContext(ctx, query, goose.DefaultTablename).Scan(&readable); err != nil || readable {
			return err
		}
		_, err := tx.ExecContext(ctx, `grant select on `+goose.DefaultTablename+` to public`)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("migrate: let services read the version: %w", err)
	}
	version, err = p.GetDBVersion(ctx)
	if err != nil {
		return 0, fmt.Errorf("migrate: read version: %w", err)
	}
	return version, nil
}

// Latest is the newest version in migrations: what a program compiled with them
// requires.
func Latest(migrations fs.FS) (int64, error) {
	p, err := provider(new(sql.DB), migrations) // asked for its files only
	if err != nil {
		return 0, err
	}
	sources := p.ListSources()
	return sources[len(sources)-1].Version, nil
}

// Folder gives the folder of embedded migrations as Migrate wants it, at the root. The name is a constant of the
// store that embeds it: a wrong one is a mistake in the program.
func Folder(files fs.FS, name string) fs.FS {
	f, err := fs.Sub(files, name)
	if err != nil {
		panic(fmt.Sprintf("database: %q is no name of a folder: %v", name, err))
	}
	return f
}

func provider(db *sql.DB, migrations fs.FS, opts ...goose.ProviderOption) (*goose.Provider, error) {
	p, err := goose.NewProvider(goose.DialectPostgres, db, migrations, append(opts, goose.WithDisableGlobalRegistry(true))...)
	if errors.Is(err, goose.ErrNoMigrations) {
		return nil, errors.New("read migrations: none found: the root of the file system must hold them (database.Folder)")
	}
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	return p, nil
}

// RequireSchema returns nil if the database is at version or newer: a program runs on
// newer schemas, which keep what older programs need, but not on older ones. Any role
// that may connect can ask.
func RequireSchema(ctx context.Context, db *sql.DB, version int64) error {
	var have int64
	err := db.QueryRowContext(ctx, `select coalesce(max(version_id), 0) from `+goose.DefaultTablename+` where is_applied`).Scan(&have)
	switch code(err) {
	case pqerror.UndefinedTable:
		return fmt.Errorf("check schema: the database has none, version %d is needed: run the migrations as the owner of the database", version)
	case pqerror.InsufficientPrivilege:
		return fmt.Errorf("check schema: %w: run the migrations as the owner of the database, that lets services read its version", err)
	}
	if err != nil {
		return fmt.Errorf("check schema: %w", err)
	}
	if have < version {
		return fmt.Errorf("check schema: the database is at version %d, version %d is needed: run the migrations as the owner of the database", have, version)
	}
	return nil
}
