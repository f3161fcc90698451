package check

import (
	"context"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// holders are the records that ever had an identity, by its value.
type holders map[string]map[identity.RecordID]bool

// handover is what leads an identity from one chip to the next.
type handover struct {
	from  identity.RecordID
	value string
}

// plans reads all plans of board swaps.
func (c *checker) plans(ctx context.Context) ([]records.Plan, error) {
	var all []records.Plan
	err := c.Records.EachPlan(ctx, func(p records.Plan) error {
		all = append(all, p)
		return nil
	})
	return all, err
}

func planRow(p records.Plan) string { return "records.plan " + p.Record.Short() }

// swapped tells whether a device has its identity from a board swap: then it
// never was in the pool for it.
func (c *checker) swapped(ctx context.Context, d records.Device) bool {
	plans, err := c.plans(ctx)
	if err != nil {
		c.unread(OneDevice, err)
		return true
	}
	for _, p := range plans {
		if p.Record == d.Record && p.Identity == d.Identity && p.Taken {
			return true
		}
	}
	return false
}

// handedOn checks that an identity which is one chip's and was a scrapped one's
// came there by board swaps. The plans are read after the identities: one is
// marked as taken in the step that binds the identity anew.
func (c *checker) handedOn(ctx context.Context, uses []records.Use, devices holders) {
	if len(uses) == 0 {
		return
	}
	plans, err := c.plans(ctx)
	if err != nil {
		c.unread(OneDevice, err)
		return
	}
	next := map[handover]identity.RecordID{}
	for _, p := range plans {
		if p.Taken {
			next[handover{p.From, p.Identity.Value()}] = p.Record
		}
	}
	for _, u := range uses {
		if u.State == records.UseBurned {
			continue
		}
		for from := range devices[u.Identity.Value()] {
			if _, out := c.scrapped[from]; !out || from == u.Record {
				continue // of a chip that is in use, its own row says it
			}
			c.checked(OneDevice, 1)
			at, steps := from, 0
			for ok := true; ok && at != u.Record && steps <= len(plans); steps++ {
				at, ok = next[handover{at, u.Identity.Value()}]
			}
			if at != u.Record {
				c.violated(OneDevice, u.Record, rows(useRow(u.Identity), "records.plan "+u.Record.Short(), fmt.Sprintf("records.device %s", from.Short())),
					"identity %s is %s by record %s, and the scrapped record %s had it before, but no board swap leads from one to the other: a released identity was given to another chip without an operator's plan, or the plan was removed",
					u.Identity, u.State, u.Record.Short(), from.Short())
			}
		}
	}
}

// everyPlan checks the board swaps. A step on the line may come between the
// reading of a plan and of what it is compared with, so what is found counts
// only if it is found twice: plans and identities go in one direction.
func (c *checker) everyPlan(ctx context.Context, devices holders) {
	first, err := c.lookAtPlans(ctx, devices, true)
	if err == nil && len(first) > 0 {
		var second map[identity.RecordID]wrongPlan
		second, err = c.lookAtPlans(ctx, devices, false)
		for record, w := range first {
			if second[record].cause == w.cause {
				c.violated(OneDevice, record, w.rows, "%s", w.cause)
			}
		}
	}
	if err != nil {
		c.unread(OneDevice, err)
	}
}

// wrongPlan is what is wrong with one plan.
type wrongPlan struct {
	rows  []string
	cause string
}

func (c *checker) lookAtPlans(ctx context.Context, devices holders, count bool) (map[identity.RecordID]wrongPlan, error) {
	plans, err := c.plans(ctx)
	if err != nil {
		return nil, err
	}
	ids := make([]identity.Identity, len(plans))
	for i, p := range plans {
		ids[i] = p.Identity
	}
	uses, err := c.Records.Uses(ctx, ids)
	if err != nil {
		return nil, err
	}
	wrong := map[identity.RecordID]wrongPlan{}
	for _, p := range plans {
		if count {
			c.checked(OneDevice, 1)
		}
		cause, err := c.planCause(ctx, p, uses[p.Identity.Value()], devices)
		if err != nil {
			return nil, err
		}
		if cause != "" {
			wrong[p.Record] = wrongPlan{rows(planRow(p), useRow(p.Identity), "records.device "+p.From.Short()), cause}
		}
	}
	return wrong, nil
}

// planCause says what is wrong with a plan, "" if nothing is.
func (c *checker) planCause(ctx context.Context, p records.Plan, u records.Use, devices holders) (string, error) {
	old, err := c.Records.Newest(ctx, p.From)
	if err != nil && !errors.Is(err, records.ErrNotFound) {
		return "", err
	}
	has := devices[p.Identity.Value()][p.Record]
	if p.Taken && !has { // begun since the rows were read
		d, err := c.Records.Newest(ctx, p.Record)
		if err != nil && !errors.Is(err, records.ErrNotFound) {
			return "", err
		}
		has = err == nil && d.Identity == p.Identity
	}
	released := u.State == records.UseReleased && u.Record == p.From
	_, noted := c.scrapped[p.From]
	switch {
	case !noted && (err != nil || old.State != records.Scrapped):
		return fmt.Sprintf("the board swap gives identity %s of record %s to this chip, but that record is not scrapped: two devices would share it; the old chip is scrapped first, so its row was changed or the plan was not written by the SPP",
			p.Identity, p.From.Short()), nil
	case p.Taken && !has:
		return fmt.Sprintf("the board swap is marked as carried out, but no generation of this chip has identity %s: the device row was removed, or the plan was changed by hand", p.Identity), nil
	case p.Taken && released:
		return fmt.Sprintf("the board swap is carried out, but identity %s is still released and could be given to a third chip: the identity's row was changed, or a backup of it was restored", p.Identity), nil
	case p.Taken && !p.Clear:
		return fmt.Sprintf("the board swap was carried out before the registry had the scrap entry of record %s: for a while two boards stood under identity %s; the chip was begun by something else than the SPP, or the notice was changed",
			p.From.Short(), p.Identity), nil
	case !p.Taken && !released:
		return fmt.Sprintf("the board swap waits for identity %s of record %s, which is %s by record %s: it can't be carried out any more; the identity was used otherwise, or its row was changed",
			p.Identity, p.From.Short(), state(u), u.Record.Short()), nil
	}
	return "", nil
}

func state(u records.Use) string {
	if u.Identity == nil {
		return "not known"
	}
	return string(u.State)
}
