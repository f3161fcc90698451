package main

import (
	"context"
	"errors"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/station"
)

type statusCmd struct {
	console.ConfigFile
	console.Output
	Tidy bool `name:"tidy" help:"Remove the pages of devices that shipped at another station."`
}

// JournalEntry is a device that stands in the station's journal.
type JournalEntry struct {
	Device     string        `json:"device"` // the fixture that it was last in
	Record     string        `json:"record"`
	Generation uint32        `json:"generation"`      // its page's
	State      string        `json:"state"`           // at the SPP; "" where that did not say
	Since      time.Time     `json:"since"`           // when its page was written
	Age        time.Duration `json:"age_ns"`          // since then
	Tidied     bool          `json:"tidied"`          // its page was removed
	Error      string        `json:"error,omitempty"` // a page that does not read, or the SPP's refusal
}

// Run lists the devices in the journal with their state at the SPP. It opens no
// device and may run beside a line.
func (c *statusCmd) Run(ctx context.Context, io console.IO) (err error) {
	w, err := openOffice(ctx, c.ConfigFile, io.Log)
	if err != nil {
		return err
	}
	defer closing(&err, w.close)
	journal, err := station.OpenJournal(w.config.Journal.String())
	if err != nil {
		return err
	}
	entries, err := journal.Entries()
	if err != nil {
		return err
	}
	all := []JournalEntry{}
	for _, e := range entries {
		j, err := c.look(ctx, w.client, journal, e)
		if err != nil {
			return err
		}
		all = append(all, j)
	}
	if c.JSON {
		return c.Print(io.Out, all)
	}
	t := console.NewTable(console.Columns("device", "record", "generation", "state", "since", "remark")...)
	for _, j := range all {
		t.Row(j.Device, j.Record, j.Generation, j.State, j.Since, j.remark())
	}
	return c.Print(io.Out, t)
}

// remark says what to do about the device.
func (j JournalEntry) remark() string {
	switch {
	case j.Tidied:
		return "shipped elsewhere; its page was removed"
	case j.Error != "":
		return j.Error
	case j.State == "shipped":
		return "shipped elsewhere: --tidy removes its page"
	case j.State == "quarantined" || j.State == "scrapped":
		return "out of use: ask who took it out"
	}
	return "put it in a fixture and run the station"
}

// look asks for one device. A refusal of one is its remark; an SPP that does
// not answer ends the command.
func (c *statusCmd) look(ctx context.Context, client *station.Client, journal *station.Journal, e station.Entry) (JournalEntry, error) {
	j := JournalEntry{Device: e.Device, Record: e.Record.String(), Generation: e.Generation, Since: e.Since, Age: max(time.Since(e.Since), 0).Round(time.Second)}
	if e.Err != nil {
		j.Error = e.Err.Error()
	}
	status, err := client.Status(ctx, e.Record[:])
	var refused *station.RefusedError
	switch {
	case errors.As(err, &refused) && !station.StopsLine(err):
		if j.Error == "" {
			j.Error = refused.Error()
		}
		return j, nil
	case err != nil:
		return j, err
	}
	j.State = status.GetState()
	if c.Tidy && e.Err == nil && j.State == "shipped" && status.GetGeneration() >= e.Generation {
		// A crash before it leaves the page; the next --tidy removes it.
		if err := journal.Tidy(e); err != nil {
			return j, err
		}
		j.Tidied = true
	}
	return j, nil
}
