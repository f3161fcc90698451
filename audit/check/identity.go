package check

import (
	"context"
	"errors"
	"slices"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// actives finds identities and chips that are active twice: on the line or in
// the field. The databases' unique indexes say the same; here it is seen.
type actives struct {
	byIdentity map[string]map[deviceID]bool // generations of chips that are not scrapped
	byRecord   map[identity.RecordID]map[string][]deviceID
}

func newActives() actives {
	return actives{map[string]map[deviceID]bool{}, map[identity.RecordID]map[string][]deviceID{}}
}

func (a actives) add(h history) {
	scrapped := h.scrapped()
	for _, d := range h {
		value, id := d.Identity.Value(), deviceID{d.Record, d.Generation}
		if !scrapped && d.State != records.Burned || active(d) {
			if a.byIdentity[value] == nil {
				a.byIdentity[value] = map[deviceID]bool{}
			}
			a.byIdentity[value][id] = true
		}
		if active(d) {
			if a.byRecord[d.Record] == nil {
				a.byRecord[d.Record] = map[string][]deviceID{}
			}
			a.byRecord[d.Record][value] = append(a.byRecord[d.Record][value], id)
		}
	}
}

// oneDevice checks invariant 1 over all rows.
func (c *checker) oneDevice() {
	for value, devices := range c.lines.byIdentity {
		c.checked(OneDevice, 1)
		records := map[identity.RecordID]bool{}
		var where []string
		var one identity.RecordID
		for d := range devices {
			records[d.Record] = true
			one = d.Record
			where = append(where, deviceRow(d.Record, d.Generation))
		}
		if len(records) > 1 {
			slices.Sort(where)
			c.violated(OneDevice, one, where, "identity %s is active in %d records: two devices share it, and none of them is scrapped; stop all of them, the rows were not written by the SPP", value, len(records))
		}
	}
	for record, identities := range c.lines.byRecord {
		c.checked(OneDevice, 1)
		if len(identities) > 1 {
			var where []string
			for _, devices := range identities {
				for _, d := range devices {
					where = append(where, deviceRow(d.Record, d.Generation))
				}
			}
			slices.Sort(where)
			c.violated(OneDevice, record, where, "the chip has %d active identities: the rows were not written by the SPP, or the chip was cloned", len(identities))
		}
	}
}

// used holds a device row against the identity's own.
func (c *checker) used(ctx context.Context, h history, d records.Device, uses map[string]records.Use) {
	c.checked(OneDevice, 1)
	u, known := uses[d.Identity.Value()]
	want, sure := h.wants(d)
	if !sure && known && (u.Record != d.Record || u.State == records.UseBurned) {
		return // handed on, which the plans tell, or ended for good
	}
	if known && u.State == want && u.Batch == d.Batch && u.Record == d.Record || c.moved(ctx, h...) {
		return
	}
	where := rows(deviceRow(d.Record, d.Generation), useRow(d.Identity))
	switch {
	case !known:
		c.violated(OneDevice, d.Record, where, "identity %s of a %s device has no row of its own: it could be imported and given out again; the row was removed", d.Identity, d.State)
	case u.Record != d.Record:
		c.violated(OneDevice, d.Record, where, "identity %s is bound to record %s: one of the two rows was changed", d.Identity, u.Record.Short())
	case want == records.UseReleased:
		c.violated(OneDevice, d.Record, where, "the device is scrapped, but its identity %s is %s, batch %d, where released, batch %d, is expected: scrapping releases it in the same step, so one of the two rows was changed",
			d.Identity, u.State, u.Batch, d.Batch)
	default:
		c.violated(OneDevice, d.Record, where, "identity %s of a %s device is %s, batch %d, where %s, batch %d, is expected: one of the two rows was changed",
			d.Identity, d.State, u.State, u.Batch, want, d.Batch)
	}
}

// pooled holds a device row against the pool's: reserved for it while it is on
// the line, gone once it is published, burned or scrapped.
func (c *checker) pooled(ctx context.Context, h history, d records.Device, waiting map[string]pool.Waiting) {
	w, waits := waiting[d.Identity.Value()]
	where := rows(deviceRow(d.Record, d.Generation), poolRow(d.Identity))
	switch {
	case in(d).OnLine() && !h.had(d):
		c.checked(OneDevice, 1)
		if waits && !w.Free && w.Record == d.Record && w.Generation == d.Generation || c.moved(ctx, d) || !waits && c.swapped(ctx, d) {
			return
		}
		switch {
		case !waits:
			c.violated(OneDevice, d.Record, where, "the device is %s, but its identity %s does not wait in the pool: it was used or burned there too early", d.State, d.Identity)
		case w.Free:
			c.violated(OneDevice, d.Record, where, "the device is %s, but its identity %s is free in the pool and could be given out again: the pool's row was changed, or a backup of the pool was restored", d.State, d.Identity)
		default:
			c.violated(OneDevice, d.Record, where, "the device is %s, but its identity %s is reserved for record %s, generation %d: the pool's row was changed", d.State, d.Identity, w.Record.Short(), w.Generation)
		}
	case published(d):
		c.checked(OneDevice, 1)
		if waits && c.settled(d.PublishedAt) {
			c.violated(OneDevice, d.Record, where, "the device is %s, but its identity %s is still in the pool: a crash came before the pool's row was deleted and nobody repaired it, or a backup of the pool was restored", d.State, d.Identity)
		}
	case d.State == records.Burned || d.State == records.Scrapped:
		c.checked(OneDevice, 1)
		if waits && c.settled(d.Changed) {
			c.violated(OneDevice, d.Record, where, "the device is %s, but its identity %s is still in the pool: house-keeping should have ended that minutes later; does an SPP run?", d.State, d.Identity)
		}
	}
}

// everyIdentity walks through all identities that the records know: none of
// them is free in the pool, and a bound one has its device.
func (c *checker) everyIdentity(ctx context.Context) {
	devices := make(holders, len(c.devices))
	for _, d := range c.devices {
		v := d.identity.Value()
		if devices[v] == nil {
			devices[v] = map[identity.RecordID]bool{}
		}
		devices[v][d.Record] = true
	}
	var shared []records.Use // by two chips or more, one after the other
	var page []records.Use
	look := func() error {
		defer func() { page = page[:0] }()
		ids := make([]identity.Identity, len(page))
		for i, u := range page {
			ids[i] = u.Identity
		}
		waiting, err := c.Pool.Look(ctx, ids)
		if err != nil {
			return err
		}
		for _, u := range page {
			c.checked(OneDevice, 1)
			if w, waits := waiting[u.Identity.Value()]; waits && w.Free {
				c.violated(OneDevice, u.Record, rows(useRow(u.Identity), poolRow(u.Identity)),
					"identity %s is %s, but free in the pool: it was imported unchecked, or a backup of the pool was restored; burn it there", u.Identity, u.State)
			}
			with := devices[u.Identity.Value()]
			if u.State == records.UseBound && !with[u.Record] && !c.bound(ctx, u) {
				c.violated(OneDevice, u.Record, rows(useRow(u.Identity)), "identity %s is bound to a record that has no device row with it: the device row was removed or changed", u.Identity)
			}
			if len(with) > 1 || len(with) == 1 && !with[u.Record] {
				shared = append(shared, u)
			}
		}
		return nil
	}
	err := c.Records.EachUse(ctx, func(u records.Use) error {
		if page = append(page, u); len(page) == 50*pageSize {
			return look()
		}
		return nil
	})
	if err == nil {
		err = look()
	}
	if err != nil {
		c.unread(OneDevice, err)
		return
	}
	c.handedOn(ctx, shared, devices)
	c.everyPlan(ctx, devices)
}

// bound tells whether a device was made since the device rows were read.
func (c *checker) bound(ctx context.Context, u records.Use) bool {
	d, err := c.Records.Newest(ctx, u.Record)
	return err != nil && !errors.Is(err, records.ErrNotFound) || err == nil && d.Identity == u.Identity
}
