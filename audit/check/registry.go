package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/store"
)

// storePage is how many entries of the registry's database are read at once.
const storePage = 200

// registryStore checks the other direction of invariant 4: the registry's
// sequence is dense, its hashes are right, and the records know every entry.
func (c *checker) registryStore(ctx context.Context) {
	if c.RegistryStore == nil {
		return
	}
	c.ends = map[noticeID]end{}
	size, err := c.RegistryStore.Size(ctx)
	if err != nil {
		c.unread(Findable, err)
		return
	}
	c.size = size
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
		c.endOf(row, d, where)
		return
	}
	raw, err := e.Encode()
	switch {
	case !row.Erased && (err != nil || !bytes.Equal(raw, d.Entry)):
		c.violated(Findable, e.Record, where, "the registry has another entry than the one in the records: one of the two was changed")
	case published(d) && d.Sequence != row.Sequence:
		c.violated(Findable, e.Record, where, "the registry has the entry at place %d, the records say %d", row.Sequence, d.Sequence)
	case !published(d) && d.State == records.Scrapped:
		c.violated(Findable, e.Record, where, "the registry has the entry of a device that was scrapped before its publication was noted, so no scrap notice ends it: it is served as one in use; the entry was on its way when the device was scrapped, or the row was changed")
	case !published(d) && in(d) != records.Restored:
		c.violated(Findable, e.Record, where, "the registry has an entry of a device that is %s: it was published before it was restored, or the row was changed", d.State)
	}
}

// endOf looks at a scrap, erase or certificates entry; what the records said of it is compared
// after the pass.
func (c *checker) endOf(row store.Row, d records.Device, where []string) {
	e := row.Entry
	raw, err := e.Encode()
	switch {
	case row.Erased: // only the leaf is left to compare
	case err != nil:
		c.violated(Findable, e.Record, where, "the %s entry does not encode, so its row was changed: %v", e.Type, err)
	case e.Type == registry.Certificates:
		if err := publicForm(d, e); err != nil {
			c.violated(Findable, e.Record, where, "the registry's certificates entry is not the device's: %v: somebody else submitted it, or the row was changed", err)
		}
	case !c.ROMKey.IsZero() && e.CheckStatement(c.ROMKey) != nil:
		c.violated(Findable, e.Record, where, "the statement of the %s entry is not by the identity-signing key", e.Type)
	case e.Type == registry.Scrap && d.State != records.Scrapped:
		c.violated(Findable, e.Record, where, "the registry says that the device is scrapped, the records say that it is %s: somebody else submitted the entry, the row was changed by hand, or a backup of the records was restored", d.State)
	}
	c.ends[noticeID{deviceID{e.Record, e.Generation}, uint8(e.Type)}] = end{row.Sequence, row.LeafHash, row.Erased, raw}
}
