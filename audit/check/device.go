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
	look := func() error {
		defer func() { page = page[:0] }()
		c.comparePage(ctx, page)
		return ctx.Err()
	}
	err := c.Records.Each(ctx, func(d records.Device) error {
		c.report.Devices++
		c.devices = append(c.devices, seen{deviceID{d.Record, d.Generation}, d.Identity, d.State, d.Licence, d.Uses, d.PackagedAt})
		c.lines.add(d)
		c.forms(d)
		c.proof(ctx, d)
		if page = append(page, d); len(page) == pageSize {
			return look()
		}
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
	for _, d := range page {
		c.used(ctx, d, uses)
		c.pooled(ctx, d, waiting)
	}
	c.findable(ctx, page)
}

// moved tells whether a row has changed since it was read: then what it was
// compared with may be ahead of it, and the comparison says nothing.
func (c *checker) moved(ctx context.Context, d records.Device) bool {
	now, err := c.Records.Get(ctx, d.Record, d.Generation)
	return err != nil || now.State != d.State || !now.Changed.Equal(d.Changed)
}

// settled tells whether what happened at a time should have been cleaned up
// after by now.
func (c *checker) settled(at time.Time) bool { return time.Since(at) >= c.Grace }

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
