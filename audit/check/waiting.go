package check

import (
	"context"
	"fmt"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// waitingKeys checks invariant 6 for keys and secrets that wait: in the pool for their
// device, sealed; in the records for the device service, wrapped to its HSM under the label
// of their row. So there is no room for a key in clear.
func (c *checker) waitingKeys(ctx context.Context) {
	if err := c.Pool.EachKey(ctx, func(k pool.Key) error {
		c.checked(NoKeys, 1)
		if _, err := keypackage.ParseSealed(k.Sealed, keypackage.MaxPackage); err != nil {
			c.violated(NoKeys, identity.RecordID{}, rows(fmt.Sprintf("pool.waiting_key %s %s", k.Identity, k.Entry)),
				"column sealed holds no sealed key, so the SPP did not write it: %v", err)
		}
		return nil
	}); err != nil {
		c.unread(NoKeys, err)
	}
	if err := c.Records.EachServiceKey(ctx, func(k records.ServiceKeyRow) error {
		c.checked(NoKeys, 1)
		if err := serviceKeyForm(k, c.Realm); err != nil {
			c.violated(NoKeys, k.Record, rows(fmt.Sprintf("records.service_key %s/%d %s", k.Record.Short(), k.Generation, k.Entry)),
				"column blob holds no key that is wrapped to the device service's HSM for this row, so the SPP did not write it: %v", err)
		}
		return nil
	}); err != nil {
		c.unread(NoKeys, err)
	}
}

func serviceKeyForm(k records.ServiceKeyRow, realm identity.Realm) error {
	b, err := keypackage.ParseTransportBlob(k.Blob)
	switch {
	case err != nil:
		return err
	case b.Realm != realm:
		return fmt.Errorf("it is of the %s realm", b.Realm)
	case b.Label != keypackage.ServiceKeyLabel(k.Record, k.Generation, k.Entry):
		return fmt.Errorf("it is labelled as another device's or entry's")
	case len(b.Wrapped) != keypackage.SymmetricSize+8:
		return fmt.Errorf("a wrapped communication key has %d bytes, it has %d", keypackage.SymmetricSize+8, len(b.Wrapped))
	}
	return nil
}
