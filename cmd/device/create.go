package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/device/slots"
)

type createCmd struct {
	benchFlags
	console.Output
	Number      int    `arg:"" help:"How many slots there are to be, those of earlier calls included."`
	ChipIDBytes int    `name:"chip-id-bytes" default:"32" placeholder:"N" help:"Length of new chip IDs: 16, 24 or 32 bytes (default 32)."`
	Maker       string `name:"maker" default:"Development chips" placeholder:"NAME" help:"The chip maker's name in the delivery list (default \"Development chips\")."`
}

// created is what create prints.
type created struct {
	Created   int      `json:"created"`
	Finished  int      `json:"finished"` // found half made by a call that was killed
	Kept      int      `json:"kept"`
	Abandoned []string `json:"abandoned"` // labels of tokens that a crash left unusable
	Delivery  string   `json:"delivery"`  // the signed list of the new chips
	Maker     string   `json:"maker_key"` // the key it is checked with
}

func (c created) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d slots made, %d finished, %d kept\n", c.Created, c.Finished, c.Kept)
	for _, a := range c.Abandoned {
		fmt.Fprintf(&b, "token %q was left unusable by a crash and is not used\n", a)
	}
	if c.Delivery != "" {
		fmt.Fprintf(&b, "delivery list  %s\nchip maker     %s\n", c.Delivery, c.Maker)
	}
	return b.String()
}

func (c *createCmd) Run(ctx context.Context, io console.IO) (err error) {
	if c.Number < 1 || c.Number > slots.MaxSlots {
		return console.Usagef("%d device slots: 1 to %d can be made", c.Number, slots.MaxSlots)
	}
	if c.ChipIDBytes != 16 && c.ChipIDBytes != 24 && c.ChipIDBytes != 32 {
		return console.Usagef("chip IDs of %d bytes: 16, 24 or 32 are allowed", c.ChipIDBytes)
	}
	b, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.rack.Close()) }()
	bar := c.Progress(io.Err, c.Number, "device slots")
	report, err := slots.Create(ctx, b.dir, b.rack, c.Number, slots.MakeOptions{
		Realm: b.realm, ChipIDBytes: c.ChipIDBytes, Maker: c.Maker, Progress: func(int, int) { bar.Add(1) },
	})
	bar.Done()
	if err != nil {
		return console.Hint(err, "run the same command again: it goes on where this one stopped")
	}
	out := created{
		Created: len(report.Created), Finished: len(report.Finished), Kept: report.Kept, Abandoned: report.Abandoned,
		Delivery: report.Delivery, Maker: report.Maker,
	}
	if out.Abandoned == nil {
		out.Abandoned = []string{}
	}
	return c.Print(io.Out, out)
}

type slotsCmd struct {
	benchFlags
	console.Output
}

func (c *slotsCmd) Run(ctx context.Context, io console.IO) (err error) {
	// Neither PIN nor chip is needed for a list, so no module is loaded.
	b := bench{dir: c.Devices, realm: c.Realm}
	s, err := b.slots(ctx, io.Log)
	if err != nil {
		return err
	}
	t := console.NewTable(console.Columns("name", "token", "realm", "chip_id_bytes", "flash", "record")...)
	for _, name := range s.Names() {
		slot, err := s.Slot(name)
		if err != nil {
			return err
		}
		state, err := s.FlashState(name)
		if err != nil {
			return err
		}
		t.Row(name, slot.Token, slot.Realm, slot.ChipIDBytes, state, slot.Record)
	}
	if t.Len() == 0 && !c.JSON {
		return console.Hint(fmt.Errorf("there are no device slots in %q", c.Devices), "device create 3 --devices %s", c.Devices)
	}
	return c.Print(io.Out, t)
}
