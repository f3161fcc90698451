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

// ServiceKeyRow is a key that waits for the device service.
type ServiceKeyRow struct {
	Record     identity.RecordID
	Generation identity.Generation
	Entry      string
	Blob       []byte // keypackage.TransportBlob in its encoding
}

// EachServiceKey calls fn with every key that waits for the device service, by record,
// generation and entry; fn may query. An error of fn ends it.
func (s *Store) EachServiceKey(ctx context.Context, fn func(ServiceKeyRow) error) error {
	const query = `select record_id, generation, entry, blob from service_key
		where (record_id, generation, entry) > ($1, $2, $3) order by record_id, generation, entry limit $4`
	var last ServiceKeyRow
	for {
		var page []ServiceKeyRow
		err := s.prepared.Each(ctx, func(scan func(...any) error) error {
			var k ServiceKeyRow
			var record []byte
			if err := scan(&record, &k.Generation, &k.Entry, &k.Blob); err != nil {
				return err
			}
			copy(k.Record[:], record)
			page = append(page, k)
			return nil
		}, query, last.Record[:], int64(last.Generation), last.Entry, eachPage)
		if err != nil {
			return fmt.Errorf("read the device service's keys: %w", err)
		}
		for _, k := range page {
			if err := fn(k); err != nil {
				return err
			}
			last = k
		}
		if len(page) < eachPage {
			return nil
		}
	}
}
