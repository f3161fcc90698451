package check

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// orders is what operators ordered, as the records have it.
type orders struct {
	all []records.Ordered
	of  map[identity.RecordID]map[records.Act]records.Ordered // the newest of each act
	// swaps and revoked tell of acts that are about two records or about none.
	swaps   map[[2]identity.RecordID]bool // from, to
	revoked map[string]int                // how often, by station
}

// readOrders reads them. It comes after what they allowed: an order is committed
// in the transaction that changes the state.
func (c *checker) readOrders(ctx context.Context) (orders, error) {
	o := orders{of: map[identity.RecordID]map[records.Act]records.Ordered{}, swaps: map[[2]identity.RecordID]bool{}, revoked: map[string]int{}}
	err := c.Records.EachOrder(ctx, func(one records.Ordered) error {
		o.all = append(o.all, one)
		switch one.Act {
		case records.ActSwap:
			if to, err := identity.ParseRecordID(one.Subject); err == nil {
				o.swaps[[2]identity.RecordID{one.Record, to}] = true
			}
		case records.ActRevoke:
			o.revoked[one.Subject]++
		}
		if one.Record != (identity.RecordID{}) {
			if o.of[one.Record] == nil {
				o.of[one.Record] = map[records.Act]records.Ordered{}
			}
			o.of[one.Record][one.Act] = one
		}
		return nil
	})
	return o, err
}

func (o orders) has(record identity.RecordID, act records.Act) bool {
	_, ok := o.of[record][act]
	return ok
}

// ordered checks that what only an operator may do was ordered by one. ok is
// false where it could not be read.
func (c *checker) ordered(ctx context.Context) (o orders, ok bool) {
	plans, err := c.plans(ctx)
	if err != nil {
		c.unread(Audited, err)
		return o, false
	}
	revocations, err := c.Records.Revocations(ctx)
	if err != nil {
		c.unread(Audited, err)
		return o, false
	}
	if o, err = c.readOrders(ctx); err != nil {
		c.unread(Audited, err)
		return o, false
	}
	for record := range c.scrapped {
		c.checked(Audited, 1)
		if !o.has(record, records.ActScrap) {
			c.violated(Audited, record, rows("records.device "+record.Short()), "the device is scrapped, but no operator ordered it: the state was changed by hand, or the order was removed")
		}
	}
	for _, d := range c.apart {
		c.checked(Audited, 1)
		if !o.has(d.Record, records.ActQuarantine) {
			c.violated(Audited, d.Record, rows(deviceRow(d.Record, d.Generation)), "a device in the field is quarantined, but no operator ordered it: the SPP itself never stops one that has left the line, so the state was changed by hand, or the order was removed")
		}
	}
	for _, p := range plans {
		c.checked(Audited, 1)
		if !o.swaps[[2]identity.RecordID{p.From, p.Record}] {
			c.violated(Audited, p.Record, rows(planRow(p)), "identity %s of record %s is planned for this chip, but no operator ordered a board swap: the plan was written by hand, or the order was removed", p.Identity, p.From.Short())
		}
	}
	times := map[string]int{}
	for _, r := range revocations {
		c.checked(Audited, 1)
		if times[r.Station]++; times[r.Station] > o.revoked[r.Station] {
			c.violated(Audited, identity.RecordID{}, rows(fmt.Sprintf("records.revocation %q %s", r.Station, day(r.At))),
				"station %q was revoked at %s, but no operator ordered it: the row was written by hand, or the order was removed", r.Station, day(r.At))
		}
	}
	if err := c.released(ctx, o); err != nil {
		c.unread(Audited, err)
		return o, false
	}
	return o, true
}

// released checks that what an operator set apart is so until one says otherwise.
func (c *checker) released(ctx context.Context, o orders) error {
	for record, acts := range o.of {
		set, ok := acts[records.ActQuarantine]
		if !ok || acts[records.ActRelease].ID > set.ID || o.has(record, records.ActScrap) {
			continue
		}
		c.checked(Audited, 1)
		d, err := c.Records.Newest(ctx, record)
		if err == nil && !d.State.OnLine() && !d.State.InField() {
			d, err = c.Records.InField(ctx, record)
		}
		switch {
		case errors.Is(err, records.ErrNotFound):
			continue
		case err != nil:
			return err
		case !d.State.OnLine() && !d.State.InField():
			continue
		}
		// An order that came meanwhile is seen now.
		again, err := c.Records.Orders(ctx, record)
		if err != nil {
			return err
		}
		if last := again[len(again)-1]; last.ID > set.ID && (last.Act == records.ActRelease || last.Act == records.ActScrap) {
			continue
		}
		c.violated(Audited, record, rows(deviceRow(d.Record, d.Generation), orderRow(set)),
			"operator %q quarantined the device at %s and nobody released it, but it is %s: the state was changed by hand, or the order to release it was removed", set.Operator, day(set.At), d.State)
	}
	return nil
}

func orderRow(o records.Ordered) string { return fmt.Sprintf("records.operator_order %d", o.ID) }

// logged holds the orders against the audit log's entries of kind order, both
// ways. Entries after `until` may be of orders that were given since.
func (c *checker) logged(o orders, entries map[int64]audit.Event, until int64) {
	told := map[int64]bool{}
	for _, one := range o.all {
		c.checked(Audited, 1)
		told[one.Entry] = true
		e, ok := entries[one.Entry]
		where := rows(orderRow(one), entryRow(one.Entry))
		switch {
		case !ok:
			c.violated(Audited, one.Record, where, "operator %q ordered %q at %s, but the audit entry that the order names is none of kind %q: the order was written by hand", one.Operator, one.Act, day(one.At), audit.Order)
		case !says(e, one):
			c.violated(Audited, one.Record, where, "the order says that operator %q ordered %q, the audit entry says %q by %q: the order was changed by hand, the audit log has the truth", one.Operator, one.Act, e.Note, e.Actor)
		}
	}
	for seq, e := range entries {
		if seq <= until && !told[seq] {
			c.violated(Audited, e.Record, rows(entryRow(seq)), "the audit log has an order, %q by %q, that the records don't know: the order's row was removed", e.Note, e.Actor)
		}
	}
}

// says tells whether an audit entry is of this order: who, what, of which
// device, and why.
func says(e audit.Event, o records.Ordered) bool {
	return e.Kind == audit.Order && e.Record == o.Record && e.Generation == o.Generation && e.Actor == "operator "+o.Operator &&
		strings.HasPrefix(e.Note, string(o.Act)) && strings.Contains(e.Note, o.Subject) && strings.HasSuffix(e.Note, o.Reason)
}

func entryRow(seq int64) string { return fmt.Sprintf("records.audit_entry %d", seq) }
