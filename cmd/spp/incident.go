package main

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

type incidentCmd struct {
	List incidentListCmd `cmd:"" help:"List the newest incidents: what should not happen, and did."`
}

type incidentListCmd struct {
	console.ConfigFile
	console.Output
	Record string `name:"record" placeholder:"ID" help:"Only those of one device, by its record id."`
	Limit  int    `name:"limit" default:"50" placeholder:"N" help:"The newest N (default 50)."`
}

func (*incidentListCmd) Help() string {
	return `An incident is kept where a device, a station or a delivery list said something that can't be true: a wrong attestation, a package of another device, a second holder of a key. The line refused it and went on with the next device; here are all facts for whoever looks into it.`
}

func (*incidentListCmd) Examples() string {
	return `
$ spp incident list --config spp.yaml --limit 10
$ spp incident list --config spp.yaml --json \
    --record 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08`
}

// incident is one incident as JSON has it.
type incident struct {
	ID         int64               `json:"id"`
	At         time.Time           `json:"at"`
	Kind       string              `json:"kind"`
	Record     *identity.RecordID  `json:"record"` // null where it concerns no device
	Generation identity.Generation `json:"generation"`
	Line       string              `json:"line"`
	Station    string              `json:"station"`
	Detail     string              `json:"detail"`
	Facts      map[string]string   `json:"facts"`
}

func newIncident(i records.Incident) incident {
	n := incident{ID: i.ID, At: i.At.UTC(), Kind: i.Kind, Generation: i.Generation, Line: i.Line, Station: i.Station, Detail: i.Detail, Facts: i.Facts}
	if i.Record != (identity.RecordID{}) {
		n.Record = &i.Record
	}
	if n.Facts == nil {
		n.Facts = map[string]string{}
	}
	return n
}

// incidents is what incident list says: a table to read, and in JSON each with its facts by name.
type incidents []incident

func (all incidents) String() string {
	t := console.NewTable(console.Columns("id", "at", "kind", "record", "generation", "line", "station", "detail", "facts")...)
	for _, i := range all {
		record, generation := "", any("")
		if i.Record != nil {
			record = i.Record.Short()
		}
		if i.Generation != 0 {
			generation = uint32(i.Generation)
		}
		t.Row(i.ID, i.At, i.Kind, record, generation, i.Line, i.Station, i.Detail, facts(i.Facts))
	}
	return t.String()
}

// facts gives "a=1, b=2", by name.
func facts(all map[string]string) string {
	var words []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		words = append(words, name+"="+all[name])
	}
	return strings.Join(words, ", ")
}

func (c *incidentListCmd) Run(ctx context.Context, out console.IO) error {
	if err := checkLimit(c.Limit); err != nil {
		return err
	}
	var record identity.RecordID
	if c.Record != "" {
		var err error
		if record, err = identity.ParseRecordID(c.Record); err != nil {
			return console.Usagef("%w", err)
		}
	}
	return withStores(ctx, c.Config, func(_ Config, s stores) error {
		all, err := s.incidents(ctx, record, c.Limit)
		if err != nil {
			return err
		}
		return c.Print(out.Out, all)
	})
}

// incidents gives the newest incidents, newest first; of one record, unless it is zero.
func (s stores) incidents(ctx context.Context, record identity.RecordID, limit int) (incidents, error) {
	all := incidents{}
	most := limit
	if record != (identity.RecordID{}) {
		most = maxRows
	}
	read, err := s.records.Incidents(ctx, most)
	if err != nil {
		return nil, err
	}
	for _, i := range read {
		if len(all) < limit && (record == identity.RecordID{} || i.Record == record) {
			all = append(all, newIncident(i))
		}
	}
	return all, nil
}
