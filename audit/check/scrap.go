package check

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/statement"
)

// scrap is a chip that is out of use, as it was when it was read.
type scrap struct {
	finished identity.Generation // the newest that was published, 0: none
	at       time.Time
}

// noting is how far apart the two times may be that noting a publication writes
// into a row: one statement makes both.
const noting = time.Second

// note keeps of a chip what is compared after the pass.
func (c *checker) note(h history) {
	newest := h[len(h)-1]
	for _, d := range h {
		// What the SPP itself set apart on the line may be published since: its
		// entry was on its way. Then nothing happened to the row after that.
		if d.State == records.Quarantined && (d.Held == records.Shipped || d.Held == records.Published && d.Changed.Sub(d.PublishedAt) > noting) {
			c.apart = append(c.apart, deviceID{d.Record, d.Generation})
		}
	}
	if h.scrapped() {
		c.scrapped[newest.Record] = scrap{h.finished(), newest.Changed}
	}
}

func noticeRow(record identity.RecordID, g identity.Generation) string {
	return fmt.Sprintf("records.notice %s/%d", record.Short(), g)
}

// notices checks that the registry says of scrapped devices that they are: each
// one that was ever published has a signed scrap notice, stored in the step that
// scrapped it, and the registry has that; and of the notices that publish
// certificates, certificatesNotice. They are read after the device rows and after the
// registry.
func (c *checker) notices(ctx context.Context) {
	all := map[noticeID]records.Notice{}
	told := map[identity.RecordID]records.Notice{}
	var out []records.Notice // those the registry acknowledged
	err := c.Records.EachNotice(ctx, func(n records.Notice) error {
		c.noticeForm(n)
		id := noticeID{deviceID{n.Record, n.Generation}, n.Type}
		all[id] = n
		if registry.EntryType(n.Type) == registry.Certificates { // nobody signs those
			c.certificatesNotice(ctx, n)
			return nil
		}
		c.signed = append(c.signed, id)
		if registry.EntryType(n.Type) != registry.Scrap {
			return nil
		}
		told[n.Record] = n
		c.notice(ctx, n)
		if n.Sequence >= 0 {
			out = append(out, n)
		}
		return nil
	})
	if err != nil {
		c.unread(Findable, err)
		return
	}
	for record, s := range c.scrapped {
		if s.finished == 0 {
			continue // the registry never had it
		}
		c.checked(Findable, 1)
		n, ok := told[record]
		switch where := rows(deviceRow(record, s.finished), noticeRow(record, s.finished)); {
		case !ok:
			c.violated(Findable, record, where, "the device is scrapped and generation %d of it was published, but there is no scrap notice: the registry would serve it as one in use for ever; the state was changed by hand, or the notice was removed", s.finished)
		case n.Generation != s.finished:
			c.violated(Findable, record, where, "the scrap notice is of generation %d, the newest that was published is %d: the registry refuses it, or it ends an old record only; one of the two rows was changed", n.Generation, s.finished)
		}
	}
	c.ended(all)
	c.tells(ctx, out)
}

// notice checks one scrap notice against its device.
func (c *checker) notice(ctx context.Context, n records.Notice) {
	c.checked(Findable, 1)
	where := rows(noticeRow(n.Record, n.Generation))
	if _, ok := c.scrapped[n.Record]; !ok {
		d, err := c.Records.Get(ctx, n.Record, n.Generation) // scrapped since?
		switch {
		case errors.Is(err, records.ErrNotFound):
			c.violated(Findable, n.Record, where, "there is a scrap notice for a generation that the records don't have: the device row was removed, or the notice was not written by the SPP")
		case err != nil:
			c.unread(Findable, err)
		case d.State != records.Scrapped:
			c.violated(Findable, n.Record, where, "there is a scrap notice, but the device is %s: the registry says of a device in use that it is scrapped, and its owner can't restore it; the device's row was changed by hand", d.State)
		}
	}
	switch {
	case n.Sequence >= 0 || !c.settled(n.At):
	case n.SetAside != "":
		c.violated(Findable, n.Record, where, "the registry refused the scrap notice of %s and it was set aside: %s. The registry still serves the device as one in use; look at spp outbox list", day(n.At), n.SetAside)
	default:
		c.violated(Findable, n.Record, where, "the scrap notice of %s still waits for the registry, which serves the device as one in use: no SPP publishes, or the sequencer is away", day(n.At))
	}
}

// tells looks scrapped devices up as any owner would: their newest entry is the
// scrap notice.
func (c *checker) tells(ctx context.Context, notices []records.Notice) {
	if c.Registry == nil {
		return
	}
	missing, err := c.untold(ctx, notices)
	if err == nil && len(missing) > 0 && c.Grace > 0 {
		// A registry may answer from a cache for a moment.
		select {
		case <-ctx.Done():
		case <-time.After(min(c.Grace, registry.DefaultNewestAge)):
		}
		missing, err = c.untold(ctx, missing)
	}
	if err != nil {
		c.unread(Findable, err)
		return
	}
	c.checked(Findable, int64(len(notices)))
	for _, n := range missing {
		c.violated(Findable, n.Record, rows(noticeRow(n.Record, n.Generation), fmt.Sprintf("registry entry %d", n.Sequence)),
			"the sequencer acknowledged the scrap notice, but the registry's newest entry of the device is another: owners are served a scrapped device as one in use; the registry lost it, or serves from a stale replica")
	}
}

// untold gives those notices that the registry doesn't serve as newest entry.
func (c *checker) untold(ctx context.Context, notices []records.Notice) (missing []records.Notice, err error) {
	for len(notices) > 0 {
		page := notices[:min(len(notices), pageSize)]
		notices = notices[len(page):]
		ids := make([]identity.RecordID, len(page))
		for i, n := range page {
			ids[i] = n.Record
		}
		var newest map[identity.RecordID]registry.Found
		err := patiently(ctx, func() (err error) {
			newest, err = c.Registry.Batch(ctx, ids)
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, n := range page {
			found, ok := newest[n.Record]
			raw, err := found.Entry.Encode()
			if !ok || err != nil || !bytes.Equal(raw, n.Entry) {
				missing = append(missing, n)
			}
		}
	}
	return missing, nil
}

// noticeForm checks that a notice is what it should be: an entry about its own
// device, with a statement by the identity-signing key.
func (c *checker) noticeForm(n records.Notice) {
	c.checked(NoKeys, 1)
	e, err := registry.ParseEntry(n.Entry)
	switch {
	case err != nil:
	case e.Realm != c.Realm || uint8(e.Type) != n.Type || e.Type.HasRecord() || e.Record != n.Record || e.Generation != n.Generation:
		err = fmt.Errorf("it is about another device or of another type")
	case e.Type == registry.Certificates:
	case c.ROMKey.IsZero():
		_, _, err = statement.Unverified(e.Statement, statement.Registry, registry.MaxStatement)
	default:
		err = e.CheckStatement(c.ROMKey)
	}
	if err != nil {
		c.violated(NoKeys, n.Record, rows(noticeRow(n.Record, n.Generation)), "the notice does not hold, so the SPP did not write it: %v", err)
	}
}

// noticeID names one notice, as records and registry do.
type noticeID struct {
	deviceID
	kind uint8
}

// end is a scrap, erase or certificates entry that the registry has.
type end struct {
	sequence int64
	leaf     [sha256.Size]byte
	erased   bool   // only the leaf is left of it
	raw      []byte // the entry; nothing of an erased one
}

// is reports whether an entry is the one that the registry has, as far as that still shows.
func (e end) is(entry []byte) bool {
	if !e.erased {
		return bytes.Equal(entry, e.raw)
	}
	sent, err := registry.ParseEntry(entry)
	return err == nil && sent.LeafHash() == e.leaf
}

// ended holds the registry's scrap, erase and certificates entries against the notices, which
// are read later: what the registry has was stored there before it was sent.
func (c *checker) ended(notices map[noticeID]records.Notice) {
	for id, e := range c.ends {
		c.checked(Findable, 1)
		n, ok := notices[id]
		where := rows(fmt.Sprintf("registry.entry %d", e.sequence), noticeRow(id.Record, id.Generation))
		switch kind := registry.EntryType(id.kind); {
		case !ok:
			c.violated(Findable, id.Record, where, "the registry has a %s entry that the records never sent: somebody else submitted it, the notice was removed, or a backup of the records was restored", kind)
		case !e.is(n.Entry):
			c.violated(Findable, id.Record, where, "the registry has another %s entry than the one in the records: one of the two was changed", kind)
		case n.Sequence >= 0 && n.Sequence != e.sequence:
			c.violated(Findable, id.Record, where, "the registry has the %s entry at place %d, the records say %d", kind, e.sequence, n.Sequence)
		}
	}
	for id, n := range notices {
		if _, ok := c.ends[id]; !ok && n.Sequence >= 0 && n.Sequence < c.size {
			c.violated(Findable, id.Record, rows(noticeRow(id.Record, id.Generation), fmt.Sprintf("registry.entry %d", n.Sequence)),
				"the sequencer acknowledged the %s entry at place %d, but the registry does not have it: it was removed, or replaced by another", registry.EntryType(n.Type), n.Sequence)
		}
	}
}

func day(t time.Time) string { return t.UTC().Format(time.RFC3339) }
