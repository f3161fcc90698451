package main

import (
	"context"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/databaseconfig"
	"github.com/devicekeys/devicekeys/deviceservice/issued"
)

// GrantConfig is the configuration of a grant. It is a file of its own: a server has no use for the owner's password.
type GrantConfig struct {
	Records databaseconfig.Config `yaml:"records" help:"Database records, as the role that owns it."`
	Role    string                `yaml:"role" default:"service" help:"The service's role; it exists already."`
}

type grantCmd struct {
	console.ConfigFile
	console.Output
}

// granted is what grant says it did; its field names are part of the interface.
type granted struct {
	Database string `json:"database"`
	Role     string `json:"role"`
}

func (c *grantCmd) Run(ctx context.Context, io console.IO) (err error) {
	var config GrantConfig
	if err := console.LoadConfig(c.Config.String(), &config); err != nil {
		return err
	}
	db, err := config.Records.Open(ctx, 1)
	if err != nil {
		return console.Hint(err, "check records in the configuration")
	}
	defer closing(&err, db.Close)
	if err := issued.Grant(ctx, db, config.Role); err != nil {
		return console.Hint(err, "run spp migrate first, make the role, and connect as the owner of the database")
	}
	return c.Print(io.Out, granted{"records", config.Role})
}
