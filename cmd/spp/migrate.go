package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/databaseconfig"
	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

type migrateCmd struct {
	console.ConfigFile
	console.Output
}

func (c *migrateCmd) Run(ctx context.Context, out console.IO) error {
	var config Config
	if err := console.LoadConfig(c.Config.String(), &config); err != nil {
		return err
	}
	if config.Owner == nil {
		return console.Usagef("the configuration has no owner: name the databases' owners there")
	}
	t := console.NewTable(console.Columns("database", "version")...)
	for _, m := range []struct {
		name    string
		config  databaseconfig.Config
		migrate migration
	}{
		{"pool", config.Owner.Pool, migration{pool.Migrate, pool.Migrations}},
		{"records", config.Owner.Records, migration{records.Migrate, records.Migrations}},
	} {
		version, err := m.migrate.run(ctx, m.config)
		if err != nil {
			return fmt.Errorf("database %s: %w", m.name, err)
		}
		t.Row(m.name, version)
	}
	return c.Print(out.Out, t)
}

// migration is one database's schema.
type migration struct {
	migrate func(context.Context, *sql.DB) error
	files   fs.FS
}

// run connects as the owner and migrates. It gives the version that the program knows; a database may be newer.
func (m migration) run(ctx context.Context, c databaseconfig.Config) (version int64, err error) {
	db, err := c.Open(ctx, 2) // goose's lock is held on one while the other migrates
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := m.migrate(ctx, db); err != nil {
		return 0, err
	}
	return database.Latest(m.files)
}
