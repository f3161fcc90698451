package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

type deviceCmd struct {
	Show       deviceShowCmd `cmd:"" help:"Print one device's whole history."`
	List       deviceListCmd `cmd:"" help:"List devices, by state or product line."`
	Quarantine quarantineCmd `cmd:"" help:"Set one device apart: nothing is done with it until it is released."`
	Release    releaseCmd    `cmd:"" help:"Put a device that is quarantined back where it was."`
	Return     returnCmd     `cmd:"" help:"Take a shipped device back: it shows its lock again before it ships again."`
	Abandon    abandonCmd    `cmd:"" help:"Give up a next generation that the line can't finish; the device keeps the one it has."`
	Scrap      scrapCmd      `cmd:"" help:"Take a device out of use for good, and have the registry say so."`
	Swap       swapCmd       `cmd:"" help:"Give the identity of a scrapped board to a new one, with other keys."`
	Unplan     unplanCmd     `cmd:"" help:"Take back a swap that the new board has not taken up."`
}

// Help and Examples of the group: what an operator does with a device that does not come through.
func (*deviceCmd) Help() string {
	return `A device is named by its record id, 64 hexadecimal digits; station and device print it. Every act needs a reason and the operator's name, which the audit log keeps. Every act may be repeated: what was done before is not done twice.`
}

func (*deviceCmd) Examples() string {
	return `
$ spp device list --config spp.yaml --state quarantined
$ spp device show --config spp.yaml RECORD
$ spp device release --config spp.yaml RECORD \
    --reason "both boards compared, this one is ours" --operator alice
$ spp device swap --config spp.yaml --from RECORD --to RECORD \
    --reason "board cracked" --operator alice`
}

// deviceArg is a device, by its record id.
type deviceArg struct {
	Record identity.RecordID `arg:"" name:"record" help:"The device's record id, 64 hexadecimal digits."`
}

// generations gives every generation of a record, oldest first; none where there is no such record. They are numbered
// without a gap from 1 (records.Reserve).
func (s stores) generations(ctx context.Context, record identity.RecordID) ([]records.Device, error) {
	var all []records.Device
	d, err := s.records.Newest(ctx, record)
	for ; err == nil; d, err = s.records.Get(ctx, record, d.Generation-1) {
		all = append(all, d)
		if d.Generation == 1 {
			break
		}
	}
	if errors.Is(err, records.ErrNotFound) && len(all) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	slices.Reverse(all)
	return all, nil
}

// noDevice says that a record has no generation.
func noDevice(record identity.RecordID) error {
	return refusal(fmt.Errorf("read record %s: %w", record.Short(), records.ErrNotFound), codeUnknownDevice, nextUnknown)
}

// newest is the last of a record's generations.
func newest(all []records.Device) records.Device { return all[len(all)-1] }

// published gives the newest generation that the registry has an entry of.
func published(all []records.Device) (records.Device, bool) {
	for _, d := range slices.Backward(all) {
		if !d.PublishedAt.IsZero() {
			return d, true
		}
	}
	return records.Device{}, false
}

// change is what an act did to one generation.
type change struct {
	Generation identity.Generation `json:"generation"`
	Before     records.State       `json:"before"`
	Now        records.State       `json:"now"`
}

// acted is what an act on a device says.
type acted struct {
	Record      identity.RecordID `json:"record"`
	Identity    string            `json:"identity"` // empty for a chip that has none
	Act         string            `json:"act"`
	Changed     bool              `json:"changed"` // false: it was so before
	Generations []change          `json:"generations"`
	Next        string            `json:"next"` // what happens now, at the line or elsewhere
}

func (a acted) String() string {
	var b strings.Builder
	done := a.Act
	if !a.Changed {
		done += " (it was so before, nothing was changed)"
	}
	fmt.Fprintf(&b, "record    %s\n", a.Record)
	if a.Identity != "" {
		fmt.Fprintf(&b, "identity  %s\n", a.Identity)
	}
	fmt.Fprintf(&b, "act       %s\n\n", done)
	t := console.NewTable(console.Columns("generation", "before", "now")...)
	for _, c := range a.Generations {
		t.Row(uint32(c.Generation), string(c.Before), string(c.Now))
	}
	if t.Len() > 0 {
		fmt.Fprintf(&b, "%s\n", t)
	}
	fmt.Fprintf(&b, "next: %s\n", a.Next)
	return b.String()
}

// act is an operator's act on one record: do changes it, next says what happens then, refused what else to do where its
// state does not fit.
type act struct {
	name          records.Act
	next, refused string
	do            func(context.Context, records.Order) error
}

// perform acts on a record and reports what became of each generation.
func (s stores) perform(ctx context.Context, record identity.RecordID, o records.Order, a act) (acted, error) {
	before, err := s.look(ctx, record)
	if err != nil {
		return acted{}, err
	}
	if err := a.do(ctx, o); err != nil {
		return acted{}, declined(err, a.refused)
	}
	return s.report(ctx, a.name, a.next, before)
}

// seen is a record as a command found it.
type seen struct {
	record identity.RecordID
	all    []records.Device
	orders int // how many were carried out
}

func (s stores) look(ctx context.Context, record identity.RecordID) (seen, error) {
	all, err := s.generations(ctx, record)
	if err != nil {
		return seen{}, err
	}
	orders, err := s.records.Orders(ctx, record)
	return seen{record, all, len(orders)}, err
}

// report compares a record with what it was before. An order that changed nothing was not kept, so that their number
// tells; what somebody else does in between is told as this command's.
func (s stores) report(ctx context.Context, name records.Act, next string, before seen) (acted, error) {
	after, err := s.look(ctx, before.record)
	if err != nil {
		return acted{}, err
	}
	r := acted{Record: before.record, Act: string(name), Changed: after.orders > before.orders, Next: next, Generations: []change{}}
	for i, d := range after.all {
		c := change{Generation: d.Generation, Now: d.State}
		if i < len(before.all) {
			c.Before = before.all[i].State
		}
		r.Identity = d.Identity.String()
		r.Generations = append(r.Generations, c)
	}
	return r, nil
}

// errEnough ends a reading early.
var errEnough = errors.New("enough")
