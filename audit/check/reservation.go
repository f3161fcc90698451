package check

import (
	"context"
	"errors"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// staleLimit is how many devices that stand still are named.
const staleLimit = MaxViolations

// reservations checks the end of invariant 1: a reservation that nobody resumes
// within its life is burned, never returned. The life is counted by each
// database's own clock, as house-keeping counts it.
func (c *checker) reservations(ctx context.Context) {
	if c.ReservationLife <= 0 {
		c.leftOut(OneDevice, "no reservation life: reservations that nobody resumed were not looked for")
		return
	}
	const likely = "house-keeping should have burned it: is an SPP running with this life, and do its clock and the databases' agree?"
	age := c.ReservationLife + c.Grace
	reserved, err := c.Pool.Reservations(ctx, age)
	if err != nil {
		c.unread(OneDevice, err)
		return
	}
	for _, r := range reserved {
		c.checked(OneDevice, 1)
		d, err := c.Records.Get(ctx, r.Record, r.Generation)
		if err != nil && !errors.Is(err, records.ErrNotFound) {
			c.unread(OneDevice, err)
			return
		}
		if err == nil && d.Identity == r.Identity {
			continue // the device's row says how long it may stand
		}
		waiting, err := c.Pool.Look(ctx, []identity.Identity{r.Identity})
		if err != nil {
			c.unread(OneDevice, err)
			return
		}
		if w, waits := waiting[r.Identity.Value()]; waits && !w.Free && w.Record == r.Record && w.Generation == r.Generation {
			c.violated(OneDevice, r.Record, rows(poolRow(r.Identity), deviceRow(r.Record, r.Generation)),
				"identity %s was reserved at %s for a device that was never begun with it, longer ago than the reservation's life of %s: %s", r.Identity, day(r.At), c.ReservationLife, likely)
		}
	}
	stale, err := c.Records.Stale(ctx, age, staleLimit)
	if err != nil {
		c.unread(OneDevice, err)
		return
	}
	for _, d := range stale {
		c.checked(OneDevice, 1)
		if !c.moved(ctx, d) {
			c.violated(OneDevice, d.Record, rows(deviceRow(d.Record, d.Generation)),
				"the device is %s since %s, longer than the reservation's life of %s: %s", d.State, day(d.Changed), c.ReservationLife, likely)
		}
	}
}
