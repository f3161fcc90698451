package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

type statusCmd struct {
	console.ConfigFile
	console.Output
}

// state is what status says.
type state struct {
	Chips     int64            `json:"chips"`
	Stock     []stock          `json:"stock"`
	Devices   map[string]int64 `json:"devices"` // by state
	InFlight  int64            `json:"in_flight"`
	Waiting   int64            `json:"waiting"`
	SetAside  int64            `json:"set_aside"`
	OldestAge float64          `json:"oldest_age_seconds"` // of the entries that wait; 0 if none does
	Incidents int              `json:"incidents"`          // of the last 24 hours
}

type stock struct {
	Line     string `json:"line"`
	Type     string `json:"type"`
	Free     int64  `json:"free"`
	Reserved int64  `json:"reserved"`
	Used     int64  `json:"used"`
	Burned   int64  `json:"burned"`
}

func (s state) String() string {
	var b strings.Builder
	t := console.NewTable(console.Columns("line", "type", "free", "reserved", "used", "burned")...)
	for _, k := range s.Stock {
		t.Row(k.Line, k.Type, k.Free, k.Reserved, k.Used, k.Burned)
	}
	b.WriteString(t.String() + "\n")
	t = console.NewTable(console.Columns("state", "devices")...)
	for _, name := range states {
		t.Row(string(name), s.Devices[string(name)])
	}
	b.WriteString(t.String() + "\n")
	fmt.Fprintf(&b, "chips delivered    %d\n", s.Chips)
	fmt.Fprintf(&b, "in flight          %d\n", s.InFlight)
	fmt.Fprintf(&b, "entries waiting    %d", s.Waiting)
	if s.Waiting > 0 {
		fmt.Fprintf(&b, ", the oldest for %s", time.Duration(s.OldestAge*float64(time.Second)).Round(time.Second))
	}
	fmt.Fprintf(&b, "\nentries set aside  %d\n", s.SetAside)
	fmt.Fprintf(&b, "incidents          %d in 24 hours\n", s.Incidents)
	return b.String()
}

// states in the order of a device's life.
var states = []records.State{records.Planned, records.Reserved, records.Packaged, records.Confirmed, records.Restored, records.Published, records.Shipped,
	records.Superseded, records.Burned, records.Quarantined, records.Scrapped}

// incidentsOf is how far back status counts incidents: a day, so that each shift sees those of the others.
const incidentsOf = 24 * time.Hour

// incidentsSince counts incidents, up to maxRows.
func (s stores) incidentsSince(ctx context.Context, since time.Time) (int, error) {
	all, err := s.records.Incidents(ctx, maxRows)
	if err != nil {
		return 0, err
	}
	n := 0
	for n < len(all) && !all[n].At.Before(since) {
		n++
	}
	return n, nil
}

func (*statusCmd) Help() string {
	return `Stock by product line; device records by state, where planned are new boards of swaps that have not been begun; what waits for the registry and what it refused; and the incidents of the last 24 hours. In flight is what stations have in work.`
}

func (*statusCmd) Examples() string {
	return `
$ spp status --config spp.yaml
$ spp status --config spp.yaml --json`
}

func (c *statusCmd) Run(ctx context.Context, out console.IO) error {
	return withStores(ctx, c.Config, func(_ Config, s stores) error {
		r := state{Stock: []stock{}, Devices: map[string]int64{}}
		lines, err := s.pool.Stock(ctx)
		if err != nil {
			return err
		}
		for _, k := range lines {
			r.Stock = append(r.Stock, stock{k.Line, k.Type.String(), k.Free, k.Reserved, k.Used, k.Burned})
		}
		counts, err := s.records.Counts(ctx)
		if err != nil {
			return err
		}
		for _, name := range states {
			r.Devices[string(name)] = counts[name]
			if name.OnLine() || name == records.Published {
				r.InFlight += counts[name]
			}
		}
		if r.Chips, err = s.records.ChipCount(ctx); err != nil {
			return err
		}
		var oldest time.Time
		if r.Waiting, r.SetAside, oldest, err = s.records.Waiting(ctx); err != nil {
			return err
		}
		// Ages are by the clock that wrote the times.
		now, err := s.records.Now(ctx)
		if err != nil {
			return err
		}
		if !oldest.IsZero() {
			r.OldestAge = max(0, now.Sub(oldest).Seconds())
		}
		if r.Incidents, err = s.incidentsSince(ctx, now.Add(-incidentsOf)); err != nil {
			return err
		}
		return c.Print(out.Out, r)
	})
}
