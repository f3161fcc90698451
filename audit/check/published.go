package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/store"
)

// findable checks invariant 4 for a page of rows: what the sequencer
// acknowledged is served by the registry, byte by byte, and opens.
func (c *checker) findable(ctx context.Context, page []records.Device) {
	var published []records.Device
	for _, d := range page {
		if d.State.Ever() {
			c.opens(d)
			published = append(published, d)
		}
	}
	if c.Registry == nil || len(published) == 0 {
		return
	}
	var ids []identity.RecordID
	for i, d := range published { // rows are in the order of their records
		if i == 0 || d.Record != published[i-1].Record {
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
	for _, d := range published {
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
	case errors.Is(err, registry.ErrErased) && !d.State.InField():
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
// certificate and backup of the row.
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
	}
}

// storePage is how many entries of the registry's database are read at once.
const storePage = 200

// registryStore checks the other direction of invariant 4: the registry's
// sequence is dense, its hashes are right, and the records know every entry.
func (c *checker) registryStore(ctx context.Context) {
	if c.RegistryStore == nil {
		return
	}
	size, err := c.RegistryStore.Size(ctx)
	if err != nil {
		c.unread(Findable, err)
		return
	}
	for from := int64(0); from < size; {
		page, err := c.RegistryStore.Range(ctx, from, int(min(storePage, size-from)))
		if errors.Is(err, store.ErrDamaged) {
			page, err = c.damaged(ctx, from, min(from+storePage, size)), nil
		} else if err == nil && int64(len(page)) < min(storePage, size-from) {
			c.violated(Findable, identity.RecordID{}, rows(fmt.Sprintf("registry.entry %d", from+int64(len(page)))),
				"the registry says that it has %d entries, but entry %d is missing: it was removed", size, from+int64(len(page)))
		}
		if err != nil {
			c.unread(Findable, err)
			return
		}
		for _, row := range page {
			c.known(ctx, row)
		}
		from += storePage
	}
}

// damaged reads entries one by one and names those that are not what they were.
func (c *checker) damaged(ctx context.Context, from, to int64) []store.Row {
	var whole []store.Row
	for seq := from; seq < to; seq++ {
		one, err := c.RegistryStore.Range(ctx, seq, 1)
		where := rows(fmt.Sprintf("registry.entry %d", seq))
		switch {
		case errors.Is(err, store.ErrDamaged):
			c.violated(Findable, identity.RecordID{}, where, "the entry is not what was accepted: its row was changed: %v", err)
		case err != nil:
			c.unread(Findable, err)
			return whole
		case len(one) == 0:
			c.violated(Findable, identity.RecordID{}, where, "entry %d is missing: it was removed", seq)
		default:
			whole = append(whole, one...)
		}
	}
	return whole
}

// known holds an entry of the registry against the records, which kept it
// before it was sent.
func (c *checker) known(ctx context.Context, row store.Row) {
	c.checked(Findable, 1)
	e := row.Entry
	where := rows(fmt.Sprintf("registry.entry %d", row.Sequence), deviceRow(e.Record, e.Generation))
	if !row.Erased && e.LeafHash() != row.LeafHash {
		c.violated(Findable, e.Record, where, "the stored leaf hash is not that of the entry: its row was changed")
	}
	d, err := c.Records.Get(ctx, e.Record, e.Generation)
	switch {
	case errors.Is(err, records.ErrNotFound):
		c.violated(Findable, e.Record, where, "the records know nothing of an entry in the registry: somebody else submitted it, or a backup of the records was restored")
		return
	case err != nil:
		c.unread(Findable, err)
		return
	case !e.Type.HasRecord():
		if !c.ROMKey.IsZero() && e.CheckStatement(c.ROMKey) != nil {
			c.violated(Findable, e.Record, where, "the statement of the %s entry is not by the identity-signing key", e.Type)
		}
		return
	}
	raw, err := e.Encode()
	switch {
	case !row.Erased && (err != nil || !bytes.Equal(raw, d.Entry)):
		c.violated(Findable, e.Record, where, "the registry has another entry than the one in the records: one of the two was changed")
	case d.State.Ever() && d.Sequence != row.Sequence:
		c.violated(Findable, e.Record, where, "the registry has the entry at place %d, the records say %d", row.Sequence, d.Sequence)
	case !d.State.Ever() && d.State != records.Restored && d.State != records.Quarantined && d.State != records.Scrapped:
		c.violated(Findable, e.Record, where, "the registry has an entry of a device that is %s: it was published before it was restored, or the row was changed", d.State)
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
