package main

import (
	"context"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/databaseconfig"
	"github.com/devicekeys/devicekeys/registry/store"
)

// MigrateConfig is the configuration of a migration. It is a file of its own: a server has no use for the owner's
// password.
type MigrateConfig struct {
	Database databaseconfig.Config `yaml:"database" help:"Database registry, as the role that owns it."`
	Roles    RolesConfig           `yaml:"roles" help:"Names of the roles that use the database; they exist already. An empty name grants nothing."`
}

// RolesConfig names the roles.
type RolesConfig struct {
	Sequencer string `yaml:"sequencer" default:"sequencer" help:"Inserts entries and moves the head; changes and deletes nothing."`
	Reader    string `yaml:"reader" default:"registry_reader" help:"Reads, for registry serve."`
	Auditor   string `yaml:"auditor" default:"auditor" help:"Reads, for auditor check."`
}

type migrateCmd struct {
	console.ConfigFile
	console.Output
}

// migrated is what migrate says it did; its field names are part of the interface.
type migrated struct {
	SchemaVersion int64  `json:"schema_version"`
	Sequencer     string `json:"sequencer"`
	Reader        string `json:"reader"`
	Auditor       string `json:"auditor"`
}

func (c *migrateCmd) Run(ctx context.Context, io console.IO) (err error) {
	var config MigrateConfig
	if err := console.LoadConfig(c.Config.String(), &config); err != nil {
		return err
	}
	// Two connections: goose's lock is held on one while the other migrates.
	db, err := config.Database.Open(ctx, 2)
	if err != nil {
		return console.Hint(err, "check database in the configuration; the database and its owner are made before")
	}
	defer closing(&err, db.Close)
	r := config.Roles
	version, err := store.Migrate(ctx, db, store.Roles{Sequencer: r.Sequencer, Reader: r.Reader, Auditor: r.Auditor})
	if err != nil {
		return err
	}
	return c.Print(io.Out, migrated{version, r.Sequencer, r.Reader, r.Auditor})
}
