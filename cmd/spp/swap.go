package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

type swapCmd struct {
	console.ConfigFile
	console.Output
	orderFlags
	From identity.RecordID `name:"from" required:"" placeholder:"ID" help:"Record id of the old board; it is scrapped."`
	To   identity.RecordID `name:"to" required:"" placeholder:"ID" help:"Record id of the new board's chip, which has no identity yet."`
}

func (*swapCmd) Help() string {
	return `A device whose board is replaced keeps its identity and gets other keys, since keys belong to the chip. The old board is scrapped first, if it is not yet, and destroyed; then the new chip is promised its identity, which it gets at its first run on the line. No identity is taken from the pool.

The command may be repeated: one that was stopped in between goes on where it was.`
}

func (*swapCmd) Examples() string {
	return `
$ spp device swap --config spp.yaml \
    --from 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 \
    --to 60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752 \
    --reason "board cracked" --operator alice
identity  004402000000004
from      9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08, scrapped
to        60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752, planned

next: destroy the old board. Take the new one through the line as any other;
until the registry has the old one's statement the line answers "publication"`
}

// swapped is what device swap says.
type swapped struct {
	Identity string            `json:"identity"`
	From     identity.RecordID `json:"from"`
	To       identity.RecordID `json:"to"`
	Scrapped bool              `json:"scrapped"` // by this command; false: before
	New      bool              `json:"new"`      // false: the swap was planned before
	Taken    bool              `json:"taken"`    // the new chip has the identity
	Clear    bool              `json:"clear"`    // the line takes it now: nothing of the old board waits for the registry
	Next     string            `json:"next"`
}

func (s swapped) String() string {
	old, now := "scrapped", "planned"
	if !s.Scrapped {
		old += " before"
	}
	if !s.New {
		now += " before"
	}
	if s.Taken {
		now = "has it"
	}
	return fmt.Sprintf("identity  %s\nfrom      %s, %s\nto        %s, %s\n\nnext: %s\n", s.Identity, s.From, old, s.To, now, s.Next)
}

// next says what happens at the line now.
func (s swapped) next() string {
	switch {
	case s.Taken:
		return "nothing is left to do: the new board has been begun, its station finishes it"
	case s.Clear:
		return "destroy the old board. Take the new one through the line as any other"
	}
	return "destroy the old board. Take the new one through the line as any other; until the registry has the old one's statement the line answers \"publication\" and asks again by itself"
}

func (c *swapCmd) Run(ctx context.Context, out console.IO) error {
	o, err := c.order()
	if err != nil {
		return err
	}
	if c.From == c.To {
		return console.Usagef("--from and --to are the same board: for new keys on the same board use spp statement unlock")
	}
	return withStores(ctx, c.Config, func(config Config, s stores) error {
		r, err := c.swap(ctx, config, s, o)
		if err != nil {
			return err
		}
		return c.Print(out.Out, r)
	})
}

// swap scraps the old record and plans its identity for the new chip. All that would refuse the second is looked at
// before the first, which can't be undone. A crash in between leaves the old board scrapped and its identity released,
// for nobody: the same command plans it.
func (c *swapCmd) swap(ctx context.Context, config Config, s stores, o records.Order) (swapped, error) {
	old, err := s.look(ctx, c.From)
	if err != nil {
		return swapped{}, err
	}
	if len(old.all) == 0 {
		return swapped{}, noDevice(c.From)
	}
	r := swapped{From: c.From, To: c.To, Scrapped: !isScrapped(old.all)}
	plan, found, err := c.plan(ctx, s)
	if err != nil {
		return swapped{}, err
	}
	if !found {
		if !isScrapped(old.all) && !slices.ContainsFunc(old.all, active) {
			return swapped{}, refuseState("take the new board through the line as any other: it gets an identity from the pool",
				"record %s has no identity to give: its generation %d is %s", c.From.Short(), newest(old.all).Generation, newest(old.all).State)
		}
		if err := c.possible(ctx, s); err != nil {
			return swapped{}, err
		}
		if err := scrap(ctx, config, s, old, o); err != nil {
			return swapped{}, err
		}
		if plan, err = s.records.Plan(ctx, c.From, c.To, o); err != nil {
			return swapped{}, declined(err, "spp device show, of both boards, tells what became of them")
		}
		r.New = true
	}
	r.Scrapped = r.Scrapped && r.New
	r.Identity, r.Taken, r.Clear = plan.Identity.String(), plan.Taken, plan.Clear
	r.Next = r.next()
	return r, nil
}

// possible refuses a new chip that can't take the identity.
func (c *swapCmd) possible(ctx context.Context, s stores) error {
	chip, err := s.records.Chip(ctx, c.To)
	switch {
	case errors.Is(err, records.ErrNotFound):
		return refusal(fmt.Errorf("no delivery list names the chip of record %s", c.To.Short()), codeUnlistedChip,
			"look for a slip in --to, or import the chip maker's list first: spp chips import")
	case err != nil:
		return err
	case chip.Contested != "":
		return refusal(fmt.Errorf("the chip of record %s is contested: %s", c.To.Short(), chip.Contested), codeContested, "take another board")
	}
	all, err := s.generations(ctx, c.To)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(all, active); i >= 0 {
		return refusal(fmt.Errorf("record %s has an identity, %s: its generation %d is %s", c.To.Short(), all[i].Identity, all[i].Generation, all[i].State), codeActive,
			"look for a slip in --to: it must be a board that has not been through the line")
	}
	switch plan, err := s.records.Planned(ctx, c.To); {
	case err == nil:
		return refusal(fmt.Errorf("record %s is promised identity %s of record %s", c.To.Short(), plan.Identity, plan.From.Short()), codeActive,
			"take another board, or take that swap back: spp device unplan")
	case !errors.Is(err, records.ErrNotFound):
		return err
	case len(all) > 0 && isScrapped(all):
		return refuseState("take another board", "record %s is scrapped", c.To.Short())
	}
	return nil
}

// plan finds this swap, taken or not. It refuses where the old board's identity is promised to a third.
func (c *swapCmd) plan(ctx context.Context, s stores) (plan records.Plan, found bool, err error) {
	err = s.records.EachPlan(ctx, func(p records.Plan) error {
		switch {
		case p.From != c.From:
		case p.Record == c.To:
			plan, found = p, true
			return errEnough
		case !p.Taken:
			return refusal(fmt.Errorf("identity %s of record %s is promised to record %s", p.Identity, p.From.Short(), p.Record), codeActive,
				"look for a slip in --to, or take that swap back: spp device unplan")
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return plan, found, err
}
