package main

import (
	"context"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/station"
)

type runCmd struct {
	console.ConfigFile
	console.Output
	Again   bool     `name:"again" help:"Take shipped devices through the line once more; each needs an unlock statement (spp statement unlock)."`
	Devices []string `arg:"" optional:"" name:"device" help:"Devices to take; left out: all in the fixtures."`
}

// Report is the result of a run.
type Report struct {
	Outcomes []station.Outcome `json:"devices"`
	Shipped  int               `json:"shipped"`
	Parked   int               `json:"parked"` // they wait for the registry
	Took     time.Duration     `json:"took_ns"`
	Calls    map[string]uint64 `json:"pkcs11_calls"` // by the devices' chips and the station's token
}

func (c *runCmd) Run(ctx context.Context, io console.IO) (err error) {
	w, err := openWorkplace(ctx, c.ConfigFile, io.Log)
	if err != nil {
		return err
	}
	defer closing(&err, w.close)
	names := c.Devices
	if len(names) == 0 {
		names = w.slots.Names()
	}
	if len(names) == 0 {
		return console.Hint(fmt.Errorf("there is no device in %s", w.config.Devices), "make some with device create")
	}
	var fixtures []station.Fixture
	for _, n := range names {
		if _, err := w.slots.Slot(n); err != nil {
			return err
		}
		fixtures = append(fixtures, w.fixture(n))
	}
	journal, err := station.OpenJournal(w.config.Journal.String())
	if err != nil {
		return err
	}
	suite := keypackage.SuiteAttested
	if w.config.Unattested {
		suite = keypackage.SuiteUnattested
	}
	bar := c.Progress(io.Err, len(fixtures), "devices")
	defer bar.Done()
	line := &station.Line{
		Client: w.client, Journal: journal, Modules: w.config.Modules.String(), Suite: suite, Hands: w.config.Hands, Again: c.Again,
		Patience: w.config.Patience, Logger: io.Log,
		OnDone: func(station.Outcome) { bar.Add(1) },
	}
	if err := line.Prepare(ctx); err != nil {
		return err
	}
	start := time.Now()
	r := Report{Outcomes: line.Run(ctx, fixtures, w.config.Drain), Took: time.Since(start), Calls: w.rack.Calls()}
	bar.Done()
	end := stopped{of: len(fixtures)}
	for _, o := range r.Outcomes {
		switch {
		case o.Shipped:
			r.Shipped++
		case o.Parked:
			r.Parked++
		case end.line == nil && o.Record != "" && station.StopsLine(o.Err):
			end.line = o.Err
		}
	}
	end.count, end.parked = len(fixtures)-r.Shipped, r.Parked
	if err := c.print(io, r); err != nil {
		return err
	}
	if r.Shipped < len(fixtures) {
		return end
	}
	return nil
}

func (c *runCmd) print(io console.IO, r Report) error {
	if c.JSON {
		return c.Print(io.Out, r)
	}
	t := console.NewTable(console.Columns("device", "record", "generation", "sequence", "result")...)
	for _, o := range r.Outcomes {
		record := o.Record
		if len(record) > 12 {
			record = record[:12]
		}
		switch {
		case !o.Shipped && !o.Parked && o.Next != "" && o.Code != "":
			t.Row(o.Device, record, o.Generation, "", o.Error+"; next: "+o.Next)
		case !o.Shipped:
			t.Row(o.Device, record, o.Generation, "", o.Error)
		case o.Resumed && o.Sequence < 0:
			t.Row(o.Device, record, "", "", "shipped before")
		default:
			t.Row(o.Device, record, o.Generation, o.Sequence, "shipped")
		}
	}
	return c.Print(io.Out, t)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
