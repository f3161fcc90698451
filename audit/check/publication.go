package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry"
)

// certificatesNotice checks the notice with which a device's certificates are
// published: it says what the row has, and while the device is in the field the
// registry has it soon after the device's own entry, behind which it goes out. An
// entry that does not parse is said elsewhere.
func (c *checker) certificatesNotice(ctx context.Context, n records.Notice) {
	e, err := registry.ParseEntry(n.Entry)
	if err != nil || e.Type != registry.Certificates {
		return
	}
	c.checked(NoKeys, 1)
	c.checked(Findable, 1)
	where := rows(noticeRow(n.Record, n.Generation))
	d, err := c.Records.Get(ctx, n.Record, n.Generation)
	switch {
	case errors.Is(err, records.ErrNotFound):
		c.violated(Findable, n.Record, where, "there is a certificates notice for a generation that the records don't have: the device row was removed, or the notice was not written by the SPP")
		return
	case err != nil:
		c.unread(Findable, err)
		return
	}
	if err := publicForm(d, e); err != nil {
		c.violated(NoKeys, n.Record, where, "the certificates notice is not the device's, so the SPP did not write it: %v", err)
	}
	due := n.At
	if d.PublishedAt.After(due) {
		due = d.PublishedAt
	}
	switch {
	case n.Sequence >= 0 || !in(d).InField() || !c.settled(due):
	case n.SetAside != "":
		c.violated(Findable, n.Record, where, "the registry refused the certificates notice of %s and it was set aside: %s. Nobody finds the certificates of a device whose product line publishes them; look at spp outbox list", day(n.At), n.SetAside)
	default:
		c.violated(Findable, n.Record, where, "the certificates notice of %s still waits for the registry, and nobody finds the device's certificates: no SPP publishes, or the sequencer is away", day(n.At))
	}
}

// publicForm says whether what a certificates entry publishes is what its device has.
func publicForm(d records.Device, e registry.Entry) error {
	p, err := registry.ParsePublicCertificates(e.Sealed)
	switch {
	case err != nil:
		return err
	case !slices.EqualFunc(p.X509, d.X509, bytes.Equal):
		return errors.New("it publishes other certificates than the device has")
	case p.Identity != "" && p.Identity != d.Identity.URN():
		return fmt.Errorf("it publishes identity %.64q, the device has %s", p.Identity, d.Identity)
	}
	return nil
}
