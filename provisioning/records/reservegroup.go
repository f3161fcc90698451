package records

import (
	"context"

	"github.com/lib/pq"

	"github.com/devicekeys/devicekeys/identity"
)

// reserveTogether makes the rows of chips that never had one, with identities that nobody
// had: what Reserve says holds of each. The rest goes alone. The locks are Reserve's, in its
// order, each kind for all devices before the next kind; the audit log's head comes last, since
// entries are appended to sorted rows, and is held for all of them until the commit.
func (s *Store) reserveTogether(ctx context.Context, all []reservation) ([]*struct{}, error) {
	const query = `
with want as materialized (
	select * from unnest((select $1::bytea[]), (select $2::bytea[]), (select $3::smallint[]), (select $4::text[]), (select $5::bigint[]),
		(select $6::smallint[]), (select $7::text[]), (select $8::text[]), (select $9::smallint[]), (select $10::bigint[]), (select $11::smallint[]),
		(select $12::bigint[]), (select $13::bytea[]), (select $14::bytea[]))
	w(record_id, chip_id, type, value, batch, realm, line, station, suite, issued_at, kdf, master_version, secrets, event)
), before as materialized (
	select record_id from device where record_id in (select record_id from want) order by record_id for share
), listed as materialized (
	select record_id, contested from chip where record_id in (select record_id from want) and (select count(*) from before) >= 0
	order by record_id for share
), use as (
	insert into identity_use (type, value, record_id, batch, state)
	select type, value, record_id, batch, 'bound' from want w
	where not exists (select from before b where b.record_id = w.record_id)
	and not exists (select from listed l where l.record_id = w.record_id and l.contested is not null)
	order by type, value
	on conflict do nothing
	returning type, value, record_id
)
insert into device (record_id, generation, chip_id, identity_type, identity_value, batch, realm, line, station, state,
	suite, issued_at, kdf, master_version, secrets, licence)
select w.record_id, 1, w.chip_id, w.type, w.value, w.batch, w.realm, w.line, w.station, 'reserved',
	w.suite, w.issued_at, w.kdf, w.master_version, w.secrets, audit_append(w.event)
from use u join want w on w.type = u.type and w.value = u.value and w.record_id = u.record_id
order by w.record_id
returning record_id`
	var records, chips, secrets, events [][]byte
	var types, batches, realms, suites, issued, kdfs, masters []int64
	var values, lines, stations []string
	place := map[identity.RecordID]int{}
	for i, d := range all {
		if d.Generation != 1 {
			continue
		}
		if _, twice := place[d.Record]; twice {
			return nil, errTwice
		}
		place[d.Record] = i
		records, chips = append(records, d.Record[:]), append(chips, d.ChipID.Bytes())
		types, values, batches = append(types, int64(d.Identity.Type())), append(values, d.Identity.Value()), append(batches, d.Batch)
		realms, lines, stations = append(realms, int64(d.Realm)), append(lines, d.Line), append(stations, d.Station)
		suites, issued, kdfs = append(suites, int64(d.Suite)), append(issued, int64(d.IssuedAt)), append(kdfs, int64(d.KDF))
		masters, secrets, events = append(masters, int64(d.Master)), append(secrets, d.secrets), append(events, d.event)
	}
	made := make([]*struct{}, len(all))
	err := s.prepared.Each(ctx, func(scan func(...any) error) error {
		var record []byte
		if err := scan(&record); err != nil {
			return err
		}
		made[place[identity.RecordID(record)]] = new(struct{})
		return nil
	}, query, pq.Array(records), pq.Array(chips), pq.Array(types), pq.Array(values), pq.Array(batches), pq.Array(realms), pq.Array(lines),
		pq.Array(stations), pq.Array(suites), pq.Array(issued), pq.Array(kdfs), pq.Array(masters), pq.Array(secrets), pq.Array(events))
	return made, err
}
