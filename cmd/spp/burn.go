package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

type poolBurnCmd struct {
	console.ConfigFile
	console.Output
	orderFlags
	Identity string        `arg:"" name:"identity" help:"The identity; an IMEI with or without its check digit."`
	Type     identity.Type `name:"type" default:"imei" placeholder:"TYPE" help:"What kind it is: imei, eui48, eui64 or serial (default imei)."`
}

func (*poolBurnCmd) Help() string {
	return `For good: no device gets the identity any more, and no import takes it. It may be free, or reserved by a device that the line can't finish; that device gets another identity at its next run. The identity of a device that was published is not burned: scrap the device instead.

The SPP itself burns a reservation that nobody resumes within reservation_life.`
}

func (*poolBurnCmd) Examples() string {
	return `
$ spp pool burn --config spp.yaml 004402000000103 \
    --reason "sold by mistake to another maker" --operator alice
identity  004402000000103
batch     2026-31
was       free
new       true`
}

// burned is what pool burn says.
type burned struct {
	Identity string `json:"identity"`
	Batch    string `json:"batch"`
	Was      string `json:"was"` // free, reserved, or burned
	New      bool   `json:"new"` // false: it was burned before
}

func (c *poolBurnCmd) Run(ctx context.Context, out console.IO) error {
	o, err := c.order()
	if err != nil {
		return err
	}
	id, err := identity.Parse(c.Type, c.Identity)
	if err != nil {
		return console.Usagef("%w", err)
	}
	return withStores(ctx, c.Config, func(_ Config, s stores) error {
		r, err := burn(ctx, s, id, o)
		if err != nil {
			return err
		}
		return c.Print(out.Out, r)
	})
}

// burn burns in the records, then in the pool. A crash in between leaves an identity that the records call burned and
// the pool still has: nobody gets it, since the records refuse it, and the same command ends it in the pool too, as
// house-keeping does for a reserved one.
func burn(ctx context.Context, s stores, id identity.Identity, o records.Order) (burned, error) {
	ids := []identity.Identity{id}
	pooled, err := s.pool.Look(ctx, ids)
	if err != nil {
		return burned{}, err
	}
	known, err := s.records.Uses(ctx, ids)
	if err != nil {
		return burned{}, err
	}
	w, waits := pooled[id.Value()]
	use, used := known[id.Value()]
	r := burned{Identity: id.String(), Was: "reserved", New: !used || use.State != records.UseBurned}
	batch := w.Batch
	switch {
	case !r.New:
		r.Was = "burned"
		batch = use.Batch
	case !waits && !used:
		return burned{}, refusal(fmt.Errorf("identity %s is neither in the pool nor known to the records", id), codeUnknownIdentity,
			"look for a slip in it; an identity that was never imported is kept out by not importing it")
	case used && use.State == records.UseReleased:
		return burned{}, refuseState("nothing is left to do: it is out of use, and only spp device swap gives it to another board", "identity %s was scrapped with record %s", id, use.Record.Short())
	case !waits:
		return burned{}, refuseState("scrap the device instead: spp device scrap", "identity %s is %s, of record %s", id, use.State, use.Record)
	case w.Free:
		r.Was = "free"
	}
	if r.Batch, err = s.batchName(ctx, batch); err != nil {
		return burned{}, err
	}
	if err := s.records.BurnedBy(ctx, id, batch, o); err != nil {
		if errors.Is(err, records.ErrConflict) {
			return burned{}, refuseState("scrap the device instead: spp device scrap; where its entry waits, it is published first", "%w", err)
		}
		return burned{}, err
	}
	return r, s.pool.Burn(ctx, id, o.Reason)
}

// batchNames gives the pool's batches by their number.
func (s stores) batchNames(ctx context.Context) (map[int64]string, error) {
	batches, err := s.pool.Batches(ctx)
	if err != nil {
		return nil, err
	}
	names := map[int64]string{}
	for _, b := range batches {
		names[b.ID] = b.Name
	}
	return names, nil
}

// batchName gives a batch's name, or its number where the pool was lost and has no name for it.
func (s stores) batchName(ctx context.Context, id int64) (string, error) {
	names, err := s.batchNames(ctx)
	return nameOf(names, id), err
}

func nameOf(names map[int64]string, id int64) string {
	if name, ok := names[id]; ok {
		return name
	}
	return fmt.Sprintf("number %d", id)
}
