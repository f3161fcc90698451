package main

import (
	"context"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/registry/store"
)

// MigrateConfig is the configuration of a migration. It is a file of its own: a server has no use for the owner's
// password.
type MigrateConfig struct {
	Database OwnerConfig `yaml:"database" help:"Database registry, as the role that owns it."`
	Roles    RolesConfig `yaml:"roles" help:"Names of the roles that use the database; they exist already. An empty name grants nothing."`
}

// OwnerConfig says how to reach the database as its owner.
type OwnerConfig struct {
	DSN          string       `yaml:"dsn" required:"true" example:"host=/run/devicekeys dbname=registry user=registry_owner sslmode=disable" help:"Keys and values as of libpq, without a password."`
	PasswordFile console.Path `yaml:"password_file" example:"role-registry_owner.password" help:"File of mode 0400 with the role's password, or \"fd:3\". Left out: client certificates, by sslcert and sslkey in the dsn."`
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
	db, err := database.Open(ctx, database.Config{DSN: config.Database.DSN, PasswordFile: config.Database.PasswordFile.String(), MaxConns: 2})
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
