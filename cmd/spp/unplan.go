package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

type unplanCmd struct {
	deviceAct
}

func (*unplanCmd) Help() string {
	return `For a swap that named the wrong new board: RECORD is that one, and it must not have been begun. The identity waits for another swap; the old board stays scrapped.`
}

func (*unplanCmd) Examples() string {
	return `
$ spp device list --config spp.yaml --state planned
$ spp device unplan --config spp.yaml \
    60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752 \
    --reason "wrong board" --operator alice`
}

// unplanned is what device unplan says.
type unplanned struct {
	Record   identity.RecordID `json:"record"`
	From     identity.RecordID `json:"from"` // whose identity it was
	Identity string            `json:"identity"`
	Next     string            `json:"next"`
}

func (u unplanned) String() string {
	return fmt.Sprintf("identity  %s\nfrom      %s\nnot to    %s\n\nnext: %s\n", u.Identity, u.From, u.Record, u.Next)
}

func (c *unplanCmd) Run(ctx context.Context, out console.IO) error {
	o, err := c.order()
	if err != nil {
		return err
	}
	return withStores(ctx, c.Config, func(_ Config, s stores) error {
		plan, err := s.records.Planned(ctx, c.Record)
		if err == nil {
			err = s.records.Unplan(ctx, c.Record, o)
		}
		if errors.Is(err, records.ErrNotFound) {
			return refuseState("if the swap was taken back before, it is done; a board that took the identity keeps it", "nothing is planned for record %s", c.Record.Short())
		}
		if err != nil {
			return err
		}
		return c.Print(out.Out, unplanned{c.Record, plan.From, plan.Identity.String(), "name the right board: spp device swap"})
	})
}
