package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry"
)

// findable checks invariant 4 for a page of rows: what the sequencer
// acknowledged is served by the registry, byte by byte, and opens.
func (c *checker) findable(ctx context.Context, page []records.Device) {
	var out []records.Device
	for _, d := range page {
		if published(d) {
			c.opens(d)
			out = append(out, d)
		}
	}
	if c.Registry == nil || len(out) == 0 {
		return
	}
	var ids []identity.RecordID
	for i, d := range out { // rows are in the order of their records
		if i == 0 || d.Record != out[i-1].Record {
			ids = append(ids, d.Record)
		}
	}
	var newest map[identity.RecordID]registry.Found
	err := patiently(ctx, func() (err error) {
		newest, err = c.Registry.Batch(ctx, ids)
		return err
	})
	if err != nil {
		c.unread(Findable, err)
		return
	}
	for _, d := range out {
		c.checked(Findable, 1)
		found, ok := newest[d.Record]
		if !ok || found.Entry.Generation != d.Generation || !found.Entry.Type.HasRecord() {
			c.older(ctx, d)
			continue
		}
		c.served(d, found.Entry, found.Served)
	}
}

// older looks up a generation that is not the record's newest entry.
func (c *checker) older(ctx context.Context, d records.Device) {
	var e registry.Entry
	var s registry.Served
	err := patiently(ctx, func() (err error) {
		e, s, err = c.Registry.Get(ctx, d.Record, d.Generation)
		return err
	})
	switch {
	case err == nil:
		c.served(d, e, s)
	case errors.Is(err, registry.ErrErased) && !in(d).InField():
	case errors.Is(err, registry.ErrErased), errors.Is(err, registry.ErrNotFound):
		if c.settled(d.PublishedAt) {
			c.violated(Findable, d.Record, rows(deviceRow(d.Record, d.Generation), fmt.Sprintf("registry entry %d", d.Sequence)),
				"the sequencer acknowledged the entry, but the registry does not serve it (%v): its owner can't restore the device; the registry lost it, or serves from a stale replica", err)
		}
	default:
		c.unread(Findable, err)
	}
}

func (c *checker) served(d records.Device, e registry.Entry, s registry.Served) {
	raw, err := e.Encode()
	where := rows(deviceRow(d.Record, d.Generation), fmt.Sprintf("registry entry %d", s.Sequence))
	switch {
	case err != nil || !bytes.Equal(raw, d.Entry):
		c.violated(Findable, d.Record, where, "the registry serves another entry than the one that was published: one of the two was changed")
	case s.Sequence >= 0 && s.Sequence != d.Sequence:
		c.violated(Findable, d.Record, where, "the registry serves the entry at place %d, the sequencer acknowledged %d: the registry was rebuilt, or the row was changed", s.Sequence, d.Sequence)
	}
}

// opens checks that a stored entry opens with the chip ID and holds the
// certificate, backup and X.509 certificates of the row.
func (c *checker) opens(d records.Device) {
	c.checked(Findable, 1)
	e, err := registry.ParseEntry(d.Entry)
	if err != nil {
		return // said by the invariant on forms
	}
	where := rows(deviceRow(d.Record, d.Generation))
	r, err := registry.Open(d.ChipID, e)
	if err == nil && !c.ROMKey.IsZero() {
		_, _, err = e.Check(d.ChipID, c.Realm, c.ROMKey)
	}
	switch {
	case err != nil:
		c.violated(Findable, d.Record, where, "the entry does not open and check with the chip ID and the ROM key, so no owner can restore from it: %v", err)
	case !bytes.Equal(r.Backup, d.Backup) || !bytes.Equal(r.Certificate, d.Certificate):
		c.violated(Findable, d.Record, where, "the entry holds another certificate or backup than the row: one of the two was changed")
	case !slices.EqualFunc(r.X509, d.X509, bytes.Equal):
		c.violated(Findable, d.Record, where, "the entry holds other X.509 certificates than the row: one of the two was changed")
	}
}

// patience bounds the waits for a registry that says it is asked too often.
const (
	patience = 20
	minWait  = time.Second
	maxWait  = 10 * time.Second
)

// patiently asks again where the registry says when to.
func patiently(ctx context.Context, ask func() error) error {
	for try := 1; ; try++ {
		err := ask()
		var status *registry.StatusError
		if err == nil || try == patience || !errors.As(err, &status) || status.Status != http.StatusTooManyRequests {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(min(max(status.RetryAfter, minWait), maxWait)):
		}
	}
}
