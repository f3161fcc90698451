package records

import (
	"context"
	"fmt"

	"github.com/devicekeys/devicekeys/identity"
)

// ServiceKey keeps a device's key that is wrapped to the transport key of the device
// service's HSM (package hsm/transport), for the service to fetch (deviceservice/issued). The
// generation was reserved. The first blob of an entry stays: it is of the same key.
func (s *Store) ServiceKey(ctx context.Context, record identity.RecordID, g identity.Generation, entry string, blob []byte) error {
	const query = `insert into service_key (record_id, generation, entry, blob) values ($1, $2, $3, $4) on conflict do nothing`
	if _, err := s.prepared.Exec(ctx, query, record[:], int64(g), entry, blob); err != nil {
		return fmt.Errorf("keep the device service's key %q of record %s, generation %d: %w", entry, record.Short(), g, err)
	}
	return nil
}
