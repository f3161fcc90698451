package main

import (
	"context"
	"errors"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

type deviceListCmd struct {
	console.ConfigFile
	console.Output
	State string `name:"state" placeholder:"STATE" enum:",reserved,packaged,confirmed,restored,published,shipped,superseded,burned,quarantined,scrapped,planned" default:"" help:"Only those in this state, as spp status names them."`
	Line  string `name:"line" placeholder:"LINE" help:"Only those of this product line."`
	Limit int    `name:"limit" default:"100" placeholder:"N" help:"At most N (default 100)."`
}

func (*deviceListCmd) Help() string {
	return `One row for each generation, in the order of record ids. State planned lists the new boards of swaps that have not been begun.`
}

func (*deviceListCmd) Examples() string {
	return `
$ spp device list --config spp.yaml --state quarantined
$ spp device list --config spp.yaml --line phone --limit 1000 --json`
}

func (c *deviceListCmd) Run(ctx context.Context, out console.IO) error {
	if err := checkLimit(c.Limit); err != nil {
		return err
	}
	return withStores(ctx, c.Config, func(_ Config, s stores) error {
		t := console.NewTable(console.Columns("record", "generation", "identity", "line", "station", "state", "held", "changed")...)
		if err := c.rows(ctx, s, t); err != nil && !errors.Is(err, errEnough) {
			return err
		}
		return c.Print(out.Out, t)
	})
}

func (c *deviceListCmd) rows(ctx context.Context, s stores, t *console.Table) error {
	if c.State == string(records.Planned) {
		return s.records.EachPlan(ctx, func(p records.Plan) error {
			if p.Taken || c.Line != "" {
				return nil
			}
			t.Row(p.Record.String(), nil, p.Identity.String(), "", "", string(records.Planned), "", p.At)
			return full(t, c.Limit)
		})
	}
	return s.records.Each(ctx, func(d records.Device) error {
		if c.State != "" && string(d.State) != c.State || c.Line != "" && d.Line != c.Line {
			return nil
		}
		t.Row(d.Record.String(), uint32(d.Generation), d.Identity.String(), d.Line, d.Station, string(d.State), string(d.Held), d.Changed)
		return full(t, c.Limit)
	})
}

// full ends a reading when the table has its rows.
func full(t *console.Table, limit int) error {
	if t.Len() < limit {
		return nil
	}
	return errEnough
}
