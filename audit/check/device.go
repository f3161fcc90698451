package check

import (
	"context"
	"errors"
	"time"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// deviceID names one generation of a record.
type deviceID struct {
	Record     identity.RecordID
	Generation identity.Generation
}

// seen is what is kept of a row for comparisons after the pass.
type seen struct {
	deviceID
	identity      identity.Identity
	state         records.State
	licence, uses int64
	packaged      time.Time
}

// pageSize is how many rows are compared with the other databases at once: a
// batch lookup of the registry.
const pageSize = 100

// everyDevice walks through the device rows once.
func (c *checker) everyDevice(ctx context.Context) {
	c.lines = newActives()
	var page []records.Device
	keys := points{}
	look := func() error {
		defer func() { page = page[:0] }()
		c.comparePage(ctx, page)
		return ctx.Err()
	}
	err := c.Records.Each(ctx, func(d records.Device) error {
		// A page ends between chips: a generation is judged by the others of its chip.
		if n := len(page); n >= pageSize && page[n-1].Record != d.Record {
			if err := look(); err != nil {
				return err
			}
		}
		c.report.Devices++
		c.devices = append(c.devices, seen{deviceID{d.Record, d.Generation}, d.Identity, d.State, d.Licence, d.Uses, d.PackagedAt})
		c.forms(d)
		keys.look(c, d)
		c.proof(ctx, d)
		page = append(page, d)
		return nil
	})
	if e := look(); err == nil {
		err = e
	}
	for _, bad := range rowErrors(err) {
		c.violated(NoKeys, bad.Record, rows(deviceRow(bad.Record, bad.Generation)), "the row does not parse, so something else wrote it: %v", bad.Err)
		err = nil
	}
	if err != nil {
		for _, name := range []string{OneDevice, Proofs, Findable, Audited, NoKeys} {
			c.unread(name, err)
		}
	}
	c.oneDevice()
}

// comparePage holds rows against what the other tables and databases say of
// them. Those are read after the rows.
func (c *checker) comparePage(ctx context.Context, page []records.Device) {
	if len(page) == 0 {
		return
	}
	c.findable(ctx, page)
	ids := make([]identity.Identity, len(page))
	for i, d := range page {
		ids[i] = d.Identity
	}
	uses, err := c.Records.Uses(ctx, ids)
	if err != nil {
		c.unread(OneDevice, err)
		return
	}
	waiting, err := c.Pool.Look(ctx, ids)
	if err != nil {
		c.unread(OneDevice, err)
		return
	}
	for len(page) > 0 {
		n := 1
		for n < len(page) && page[n].Record == page[0].Record {
			n++
		}
		h := history(page[:n])
		page = page[n:]
		c.lines.add(h)
		c.note(h)
		c.whole(ctx, h)
		for _, d := range h {
			c.used(ctx, h, d, uses)
			c.pooled(ctx, h, d, waiting)
		}
	}
}

// moved tells whether one of the rows has changed since it was read: then what
// it was compared with may be ahead of it, and the comparison says nothing.
func (c *checker) moved(ctx context.Context, rows ...records.Device) bool {
	for _, d := range rows {
		now, err := c.Records.Get(ctx, d.Record, d.Generation)
		if err != nil || now.State != d.State || !now.Changed.Equal(d.Changed) {
			return true
		}
	}
	return false
}

// settled tells whether what happened at a time, by the records' clock, should
// have been cleaned up after by now.
func (c *checker) settled(at time.Time) bool {
	return time.Since(at)+c.ahead >= c.Grace
}

// rowErrors takes the rows that do not parse out of an error of records.Each; it
// gives none if anything else is wrong too.
func rowErrors(err error) []*records.RowError {
	var all []*records.RowError
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	for _, e := range joined.Unwrap() {
		row := (*records.RowError)(nil)
		if !errors.As(e, &row) {
			return nil
		}
		all = append(all, row)
	}
	return all
}
