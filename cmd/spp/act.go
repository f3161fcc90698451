package main

import (
	"context"
	"errors"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// The acts that need no key: each is one transaction of the records with its entry of the audit log. A crash leaves the
// act done or not; the same command again finishes it or tells that it was done.

// deviceAct is what all of them take.
type deviceAct struct {
	console.ConfigFile
	console.Output
	orderFlags
	deviceArg
}

// on carries the act out and prints what became of the device.
func (c *deviceAct) on(ctx context.Context, out console.IO, make func(stores) act) error {
	o, err := c.order()
	if err != nil {
		return err
	}
	return withStores(ctx, c.Config, func(_ Config, s stores) error {
		r, err := s.perform(ctx, c.Record, o, make(s))
		if err != nil {
			return err
		}
		return c.Print(out.Out, r)
	})
}

type quarantineCmd struct {
	deviceAct
}

func (*quarantineCmd) Help() string {
	return `Nothing is begun, finished or proven with a device that is quarantined, and it keeps its identity. It takes all its generations that are on the line or in the field. The SPP itself quarantines a device on the line where an incident proves that two have one identity; a device in the field only an operator does. Owners restore as before: the registry is not told.`
}

func (*quarantineCmd) Examples() string {
	return `
$ spp device quarantine --config spp.yaml \
    9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 \
    --reason "incident 17: two boards answer for it" --operator alice
record    9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
identity  004402000000004
act       quarantine

generation  before   now
         1  shipped  quarantined

next: find out what happened, then release or scrap it`
}

func (c *quarantineCmd) Run(ctx context.Context, out console.IO) error {
	return c.on(ctx, out, func(s stores) act {
		return act{
			name: records.ActQuarantine, next: "find out what happened, then release or scrap it",
			refused: "nothing of it is on the line or in the field: spp device show tells what became of it",
			do:      func(ctx context.Context, o records.Order) error { return s.records.Quarantine(ctx, c.Record, o) },
		}
	})
}

type releaseCmd struct {
	deviceAct
}

func (*releaseCmd) Help() string {
	return `Every generation goes back to the state it was in, and where delivery lists contested the chip, that ends: the line takes it again. Look at the incidents first: where two devices hold one key, one of them is to be scrapped.`
}

func (*releaseCmd) Examples() string {
	return `
$ spp incident list --config spp.yaml --record 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
$ spp device release --config spp.yaml \
    9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 \
    --reason "incident 17: the other board was the copy" --operator alice`
}

func (c *releaseCmd) Run(ctx context.Context, out console.IO) error {
	return c.on(ctx, out, func(s stores) act {
		return act{
			name: records.ActRelease, next: "it goes on where it was: on the line run its station again",
			refused: "only what is quarantined or contested is released; spp device show tells what became of it",
			do: func(ctx context.Context, o records.Order) error {
				err := s.records.Release(ctx, c.Record, o)
				if errors.Is(err, records.ErrNotFound) {
					// A chip that was delivered and never begun: nothing of it is held, or not any more.
					if _, listed := s.records.Chip(ctx, c.Record); listed == nil {
						return nil
					}
				}
				return err
			},
		}
	})
}

type returnCmd struct {
	deviceAct
}

func (*returnCmd) Help() string {
	return `For a device that left the line and comes back, unsold or repaired without new keys: it counts as shipped again when the line has seen once more that it is locked. Its identity, keys and registry entry stay. For new keys give it a next generation instead: spp statement unlock.`
}

func (*returnCmd) Examples() string {
	return `
$ spp device return --config spp.yaml \
    9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 \
    --reason "came back from the shop unopened" --operator alice
$ station run --config station.yaml device-0001`
}

func (c *returnCmd) Run(ctx context.Context, out console.IO) error {
	return c.on(ctx, out, func(s stores) act {
		return act{
			name: records.ActReturn, next: "put it into a fixture and run the station: it ships when it has shown its lock",
			refused: "only a shipped device is returned; one on the line is finished by its station",
			do:      func(ctx context.Context, o records.Order) error { return s.records.Return(ctx, c.Record, o) },
		}
	})
}

type abandonCmd struct {
	deviceAct
	Generation identity.Generation `name:"generation" required:"" placeholder:"N" help:"The generation to give up: the newest one."`
}

func (*abandonCmd) Help() string {
	return `For a rework that can't be finished: generation 2 or later is on the line, an earlier one is what the device still holds. The one on the line is burned, the identity stays with the device. A first generation is not abandoned: its identity is burned, with spp pool burn.`
}

func (*abandonCmd) Examples() string {
	return `
$ spp device abandon --config spp.yaml --generation 2 \
    9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 \
    --reason "flash broke in rework" --operator alice`
}

func (c *abandonCmd) Run(ctx context.Context, out console.IO) error {
	return c.on(ctx, out, func(s stores) act {
		return act{
			name: records.ActAbandon, next: "the device holds the generation before; to rework it once more allow the next one: spp statement unlock",
			refused: "only a generation on the line is abandoned, and only where an earlier one is in the field; where its entry waits for the registry it is published first",
			do: func(ctx context.Context, o records.Order) error {
				return s.records.Abandon(ctx, c.Record, c.Generation, o)
			},
		}
	})
}
