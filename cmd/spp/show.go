package main

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry"
)

type deviceShowCmd struct {
	console.ConfigFile
	console.Output
	deviceArg
}

func (*deviceShowCmd) Help() string {
	return `All that the records know of one device: the chip as it was delivered, each generation with its state and times, unlock statements, swaps that it is part of, statements about it that went to the registry, what operators ordered, incidents. No key and no chip ID is shown.`
}

func (*deviceShowCmd) Examples() string {
	return `
$ spp device show --config spp.yaml \
    9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
record  9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
chip    lot "delivery-17" of maker "chip maker"

generations
generation  identity         batch    state       line   station  begun ...
         1  004402000000004  2026-31  superseded  phone  line-1   2026-03-02 ...
         2  004402000000004  2026-31  shipped     phone  line-1   2026-05-11 ...

unlocked
generation  at                    operator  reason
         2  2026-05-11T08:12:00Z  alice     board repaired`
}

func (c *deviceShowCmd) Run(ctx context.Context, out console.IO) error {
	return withStores(ctx, c.Config, func(_ Config, s stores) error {
		h, err := s.history(ctx, c.Record)
		if err != nil {
			return err
		}
		if h.Chip == nil && len(h.Generations) == 0 {
			return noDevice(c.Record)
		}
		return c.Print(out.Out, h)
	})
}

// history reads all that is known of a record, part by part; what changes meanwhile may be in one and not in another.
func (s stores) history(ctx context.Context, record identity.RecordID) (history, error) {
	h := history{Record: record, Generations: []generation{}, Unlocks: []unlockHistory{}, Swaps: []swapHistory{}, Notices: []noticeHistory{}, Orders: []orderHistory{}}
	for _, read := range []func(context.Context, *history) error{s.chipOf, s.generationsOf, s.unlocksOf, s.swapsOf, s.noticesOf, s.ordersOf} {
		if err := read(ctx, &h); err != nil {
			return history{}, err
		}
	}
	var err error
	h.Incidents, err = s.incidents(ctx, record, maxRows)
	return h, err
}

func (s stores) chipOf(ctx context.Context, h *history) error {
	chip, err := s.records.Chip(ctx, h.Record)
	if errors.Is(err, records.ErrNotFound) {
		return nil
	}
	h.Chip = &delivered{chip.Maker, chip.Lot, chip.Contested}
	return err
}

func (s stores) generationsOf(ctx context.Context, h *history) error {
	names, err := s.batchNames(ctx)
	if err != nil {
		return err
	}
	all, err := s.generations(ctx, h.Record)
	for _, d := range all {
		g := generation{
			Generation: d.Generation, Identity: d.Identity.String(), Batch: nameOf(names, d.Batch), State: d.State, Held: d.Held,
			Line: d.Line, Station: d.Station, Begun: d.Created.UTC(), Packaged: when(d.PackagedAt), Published: when(d.PublishedAt), Changed: d.Changed.UTC(),
			SetAside: d.SetAside, Reason: d.Reason,
		}
		if g.Published != nil {
			g.Sequence = &d.Sequence
		}
		h.Generations = append(h.Generations, g)
	}
	return err
}

// when gives a time, or nil where there was none.
func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func (s stores) unlocksOf(ctx context.Context, h *history) error {
	err := s.records.EachUnlock(ctx, func(u records.Unlock) error {
		switch bytes.Compare(u.Record[:], h.Record[:]) {
		case 0:
			h.Unlocks = append(h.Unlocks, unlockHistory{u.Next, u.At.UTC(), u.Operator, u.Reason})
		case 1: // they come in the order of records
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return err
}

func (s stores) swapsOf(ctx context.Context, h *history) error {
	return s.records.EachPlan(ctx, func(p records.Plan) error {
		if p.Record == h.Record || p.From == h.Record {
			h.Swaps = append(h.Swaps, swapHistory{p.From, p.Record, p.Identity.String(), p.At.UTC(), p.Taken, p.Operator, p.Reason})
		}
		return nil
	})
}

func (s stores) noticesOf(ctx context.Context, h *history) error {
	return s.records.EachNotice(ctx, func(n records.Notice) error {
		if n.Record != h.Record {
			return nil
		}
		x := noticeHistory{Type: registry.EntryType(n.Type).String(), Generation: n.Generation, At: n.At.UTC(), SetAside: n.SetAside, Operator: n.Operator, Reason: n.Reason}
		if n.Sequence >= 0 {
			x.Sequence = &n.Sequence
		}
		h.Notices = append(h.Notices, x)
		return nil
	})
}

func (s stores) ordersOf(ctx context.Context, h *history) error {
	all, err := s.records.Orders(ctx, h.Record)
	for _, o := range all {
		h.Orders = append(h.Orders, orderHistory{o.At.UTC(), string(o.Act), o.Generation, o.Subject, o.Operator, o.Reason})
	}
	return err
}
