package records

import (
	"bytes"
	"context"
	"fmt"

	"github.com/lib/pq"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/identity"
)

// step takes one step of a device's state: a statement that names the states it
// starts from. Where it changes nothing, done looks at the row and tells whether
// the step was taken before with the same values; then the row is given.
func (s *Store) step(ctx context.Context, act string, record identity.RecordID, g identity.Generation, done func(Device) bool, query string, args ...any) (before *Device, err error) {
	fail := func(err error) (*Device, error) {
		return nil, fmt.Errorf("%s, record %s, generation %d: %w", act, record.Short(), g, err)
	}
	n, err := s.prepared.Exec(ctx, query, append([]any{record[:], int64(g)}, args...)...)
	if err != nil {
		return fail(err)
	}
	if n != 0 {
		return nil, nil
	}
	d, err := s.Get(ctx, record, g)
	if err != nil {
		return fail(err)
	}
	if !done(d) {
		return fail(fmt.Errorf("%w: it is %s", ErrConflict, d.State))
	}
	return &d, nil
}

// Packaged keeps the data package made for one hello, from reserved, or from
// packaged for another hello (a fresh e_D): the transfer is replaced, manifest
// and claims stay. The first package for a hello is the one: where two are made
// at once, the second gets ErrConflict, and its caller reads and sends the first.
//
// A crash before it leaves a package that nobody saw. A crash after it leaves
// the stored package to be sent again for the same hello.
func (s *Store) Packaged(ctx context.Context, d Device) error {
	const query = `update device set state = 'packaged', hello = $3, point = $4, manifest = $5, claims = $6, certificate = $7,
			package = $8, x509 = $9, packaged = coalesce(packaged, clock_timestamp()), changed = clock_timestamp()
		where record_id = $1 and generation = $2 and state in ('reserved', 'packaged')
		and (claims is null or (manifest = $5 and claims = $6)) and hello is distinct from $3`
	certificates, err := encodeX509(d.X509)
	if err != nil {
		return fmt.Errorf("keep package, record %s: %w", d.Record.Short(), err)
	}
	same := func(have Device) bool {
		return have.State == Packaged && bytes.Equal(have.Hello, d.Hello) && bytes.Equal(have.Point, d.Point) &&
			bytes.Equal(have.Manifest, d.Manifest) && bytes.Equal(have.Claims, d.Claims) &&
			bytes.Equal(have.Certificate, d.Certificate) && bytes.Equal(have.Package, d.Package)
	}
	_, err = s.groups.packaged.Do(ctx, d, func(ctx context.Context) (struct{}, error) {
		_, err := s.step(ctx, "keep package", d.Record, d.Generation, same, query, d.Hello, d.Point, d.Manifest, d.Claims, d.Certificate, d.Package, certificates)
		return struct{}{}, err
	})
	return err
}

// Confirmed keeps the backup that the device made, with its MAC and the
// challenge for the restoration, and gives the challenge that is kept. point is
// the e_S of the transfer that backup and MAC were verified against: where
// another transfer came in between, that is an ErrConflict. The first one wins:
// the same backup again gives the stored challenge, in whatever later state;
// another backup is an ErrConflict.
//
// A crash after it leaves the state confirmed; the station confirms again and
// gets the same challenge.
func (s *Store) Confirmed(ctx context.Context, record identity.RecordID, g identity.Generation, point, backup, confirm []byte, challenge [32]byte) ([32]byte, error) {
	const query = `update device set state = 'confirmed', backup = $3, confirm = $4, challenge = $5, changed = clock_timestamp()
		where record_id = $1 and generation = $2 and state = 'packaged' and point = $6`
	same := func(have Device) bool {
		return (have.State == Confirmed || have.State == Restored || have.State.Ever()) && bytes.Equal(have.Backup, backup)
	}
	first := confirmation{generationID{record, g}, point, backup, confirm, challenge}
	return s.groups.confirmed.Do(ctx, first, func(ctx context.Context) ([32]byte, error) {
		before, err := s.step(ctx, "keep backup", record, g, same, query, backup, confirm, challenge[:], point)
		if before != nil {
			return before.Challenge, err
		}
		return challenge, err
	})
}

// Restored keeps the device's proof that it was restored, and the registry entry
// that will be published: it waits in the outbox. The first one wins: with the
// same proof again the stored entry stays; another proof is an ErrConflict.
//
// certificates is the device's certificates entry, where its product line publishes
// one; else nil. It waits as a notice, until the device's own entry is published.
//
// A crash after it leaves the entry in the outbox, from where the publisher
// sends these bytes and no others.
func (s *Store) Restored(ctx context.Context, record identity.RecordID, g identity.Generation, proof, entry, certificates []byte) error {
	const notice = `with noted as (
			insert into notice (record_id, generation, type, entry, reason, operator)
			select record_id, generation, 5, $5, 'its product line publishes certificates', 'line ' || line
			from device where record_id = $1 and generation = $2 and state = 'confirmed' on conflict do nothing
		) `
	const query = `update device set state = 'restored', proof = $3, entry = $4, changed = clock_timestamp()
		where record_id = $1 and generation = $2 and state = 'confirmed'`
	same := func(have Device) bool {
		return (have.State == Restored || have.State.Ever()) && bytes.Equal(have.Proof, proof)
	}
	if len(certificates) != 0 {
		_, err := s.step(ctx, "keep restore proof", record, g, same, notice+query, proof, entry, certificates)
		return err
	}
	_, err := s.groups.restored.Do(ctx, restoration{generationID{record, g}, proof, entry}, func(ctx context.Context) (struct{}, error) {
		_, err := s.step(ctx, "keep restore proof", record, g, same, query, proof, entry)
		return struct{}{}, err
	})
	return err
}

// Published notes that the registry acknowledged the entry as durable, at the
// given place. Drawn secrets are emptied: from now on only the device has them.
// An earlier generation of the same chip becomes superseded in the same
// statement. The same again is a no-op; another place is an ErrConflict, and so
// is one that another device has.
//
// A device that was quarantined while its entry was on its way stays so, and is
// released to published: what the registry has can't be taken back.
//
// A crash before it leaves the entry in the outbox: it is sent again and the
// sequencer answers with the same place. A crash after it leaves the pool's row,
// which whoever published calls pool.Use for, or the publisher's sweep does.
func (s *Store) Published(ctx context.Context, record identity.RecordID, g identity.Generation, sequence int64) error {
	// The row is locked first: whatever else happens to it is over, or waits. Then
	// the earlier generation goes, as no chip has two in the field; the condition on
	// its count makes Postgres do so. Its secrets are emptied.
	const query = `
with target as (
	select from device where record_id = $1 and generation = $2 and coalesce(held, state) = 'restored' for update
), earlier as (
	update device set state = 'superseded', held = null, changed = clock_timestamp()
	where record_id = $1 and generation < $2 and coalesce(held, state) in ('published', 'shipped') and exists (select from target)
	returning generation
)
update device set state = case when held is null then 'published' else state end,
	held = case when held is null then null else 'published' end, sequence = $3, secrets = ` + noSecrets + `, set_aside = null,
	published = clock_timestamp(), changed = clock_timestamp()
where record_id = $1 and generation = $2 and coalesce(held, state) = 'restored'
and exists (select from target) and (select count(*) from earlier) >= 0`
	same := func(have Device) bool { return !have.PublishedAt.IsZero() && have.Sequence == sequence }
	_, err := s.step(ctx, "note publication", record, g, same, query, sequence)
	if _, taken := database.UniqueViolation(err); taken {
		return fmt.Errorf("%w: another device has place %d: %w", ErrConflict, sequence, err)
	}
	return err
}

// Publication is what the registry acknowledged of a record's first generation.
type Publication struct {
	Record   identity.RecordID
	Sequence int64
}

// PublishedAll is Published for first generations, in one statement: those that
// are restored and not quarantined. It tells which of all it took, in their order;
// the others, and all of them where it fails, are Published's, one by one.
//
// A crash before it leaves the entries in the outbox, as with Published.
func (s *Store) PublishedAll(ctx context.Context, all []Publication) (taken []bool, err error) {
	const query = `
with target as (
	select d.record_id, p.sequence from unnest((select $1::bytea[]), (select $2::bigint[])) p(record_id, sequence)
	join device d on d.record_id = p.record_id and d.generation = 1 and d.state = 'restored'
	order by d.record_id for update of d
)
update device d set state = 'published', sequence = t.sequence, secrets = ` + noSecrets + `, set_aside = null,
	published = clock_timestamp(), changed = clock_timestamp()
from target t where d.record_id = t.record_id and d.generation = 1
returning d.record_id`
	ids, sequences, place := make([][]byte, len(all)), make([]int64, len(all)), make(map[identity.RecordID]int, len(all))
	for i, p := range all {
		ids[i], sequences[i], place[p.Record] = p.Record[:], p.Sequence, i
	}
	taken = make([]bool, len(all))
	err = s.prepared.Each(ctx, func(scan func(...any) error) error {
		var record []byte
		if err := scan(&record); err != nil {
			return err
		}
		taken[place[identity.RecordID(record)]] = true
		return nil
	}, query, pq.Array(ids), pq.Array(sequences))
	if err != nil {
		return nil, fmt.Errorf("note %d publications: %w", len(all), err)
	}
	return taken, nil
}

// Shipped notes that the device is locked. Again is a no-op.
//
// A crash before it leaves the state published; the device answers the Published
// message as often as it is asked.
func (s *Store) Shipped(ctx context.Context, record identity.RecordID, g identity.Generation) error {
	const query = `update device set state = 'shipped', changed = clock_timestamp()
		where record_id = $1 and generation = $2 and state = 'published'`
	_, err := s.groups.shipped.Do(ctx, generationID{record, g}, func(ctx context.Context) (struct{}, error) {
		_, err := s.step(ctx, "note shipment", record, g, func(have Device) bool { return have.State == Shipped }, query)
		return struct{}{}, err
	})
	return err
}
