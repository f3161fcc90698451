package records

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/lib/pq"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/identity"
)

// Reserve binds the identity to the chip and writes the device row with what
// every later step is a function of: identity, time of issue, drawn secrets. In
// the same transaction it appends e, of kind audit.Assemble, which licenses
// deriving the keys and signing the certificate.
//
// d's generation is the chip's next one; for the first one, or after one that was
// burned, the identity is new, else it is the one that the chip has. A released
// identity is taken where a plan gives it to this chip (Plan), once the old
// record's scrap entry is published; the plan is taken with it. The same
// device again, with the same values, changes nothing and is no error. It
// matches ErrExists, ErrIdentityUsed, ErrChipActive, ErrPointUsed, ErrConflict for a generation
// that is not the next one or a plan that has to wait, or ErrOutOfUse where the
// record is quarantined or scrapped, or its chip contested.
//
// Against Quarantine, Scrap, Contest and BurnUnclaimed, of this process or
// another, row locks decide: either they find the generation made here, or it
// is not made.
//
// A crash before the commit leaves the identity reserved in the pool only: the
// next try gets the same one there. A crash after it leaves the state reserved,
// from which the next Begin of the same chip goes on.
func (s *Store) Reserve(ctx context.Context, d Device, e audit.Event) error {
	fail := func(err error) error {
		return fmt.Errorf("reserve generation %d of record %s: %w", d.Generation, d.Record.Short(), err)
	}
	if d.Identity == nil || d.ChipID.IsZero() || d.ChipID.RecordID() != d.Record {
		return fail(errors.New("identity or chip ID is missing, or gives another record id"))
	}
	if e.Kind != audit.Assemble || e.Record != d.Record || e.Generation != d.Generation {
		return fail(fmt.Errorf("the audit event is %q of another record or generation, it must be %q of this one", e.Kind, audit.Assemble))
	}
	body, err := e.Encode()
	if err != nil {
		return fail(err)
	}
	secrets, err := encodeSecrets(d.Secrets)
	if err != nil {
		return fail(err)
	}
	if len(d.Points) > 0 { // a point that is another's must fail this device's reservation alone
		return s.reserve(ctx, reservation{d, secrets, body}, fail)
	}
	_, err = s.groups.reserve.Do(ctx, reservation{d, secrets, body}, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.reserve(ctx, reservation{d, secrets, body}, fail)
	})
	return err
}

// reservation is what a Reserve writes.
type reservation struct {
	Device
	secrets []byte // sealed, encoded
	event   []byte // the audit entry's body
}

// reserve makes one row.
func (s *Store) reserve(ctx context.Context, d reservation, fail func(error) error) error {
	points := make([][]byte, len(d.Points))
	for i, p := range d.Points {
		points[i] = bytes.Clone(p[:])
	}
	// One statement, so one round trip and one transaction. The audit entry is
	// appended as the device row is made, and the head's lock lasts until the
	// statement's commit. The chip is looked at after the device's rows, which it
	// names for that: locks are taken in one order (package comment).
	const query = `
with before as (
	select coalesce(max(generation), 0) as newest, coalesce(bool_or(state in ('quarantined', 'scrapped')), false) as stopped
	from (select generation, state from device where record_id = $1 order by generation desc for share) d
), listed as (
	select contested from chip where record_id = $1 and (select newest from before) >= 0 for share
), use as (
	insert into identity_use as u (type, value, record_id, batch, state)
	select $4, $5, $1, $6, 'bound' from before
	where $2 = newest + 1 and not stopped and not exists (select from listed where contested is not null)
	on conflict (type, value) do update set record_id = excluded.record_id, state = 'bound', planned = null
		where u.record_id = excluded.record_id and u.state = 'bound'
		or u.planned = excluded.record_id
			and exists (select from plan p where p.record_id = excluded.record_id and p.identity_type = excluded.type
				and p.identity_value = excluded.value and p.taken is null and p.dropped is null)
			and not exists (select from notice n where n.record_id = u.record_id and n.type = 3 and n.sequence is null)
	returning type
), taken as (
	update plan set taken = clock_timestamp()
	where record_id = $1 and identity_type = $4 and identity_value = $5 and taken is null and dropped is null and exists (select from use)
), points as (
	insert into key_point (point, record_id, generation) select p, $1, $2 from unnest($16::bytea[]) p where exists (select from use)
)
insert into device (record_id, generation, chip_id, identity_type, identity_value, batch, realm, line, station, state,
	suite, issued_at, kdf, master_version, secrets, licence)
select $1, $2, $3, $4, $5, $6, $7, $8, $9, 'reserved', $10, $11, $12, $13, $14, audit_append($15) from use`
	n, err := s.prepared.Exec(ctx, query, d.Record[:], int64(d.Generation), d.ChipID.Bytes(), int64(d.Identity.Type()), d.Identity.Value(), d.Batch,
		int64(d.Realm), d.Line, d.Station, int64(d.Suite), int64(d.IssuedAt), int64(d.KDF), int64(d.Master), d.secrets, d.event, pq.Array(points))
	if err == nil && n == 1 {
		return nil
	}
	constraint, taken := database.UniqueViolation(err)
	if err != nil && !taken {
		return fail(err)
	}
	return s.refusal(ctx, d.Device, constraint, fail)
}

// refusal says why no row was made, or nil where the same call made it before.
func (s *Store) refusal(ctx context.Context, d Device, constraint string, fail func(error) error) error {
	const query = `
select coalesce(max(generation), 0) + 1, coalesce(bool_or(state in ('quarantined', 'scrapped')), false),
	exists (select from chip where record_id = $1 and contested is not null),
	exists (select from identity_use where type = $2 and value = $3 and planned = $1)
from device where record_id = $1`
	var next int64
	var stopped, contested, planned bool
	if err := s.prepared.Row(ctx, query, []any{d.Record[:], int64(d.Identity.Type()), d.Identity.Value()}, &next, &stopped, &contested, &planned); err != nil {
		return fail(err)
	}
	// After next is known: a row that another call makes meanwhile is found here.
	switch have, err := s.Get(ctx, d.Record, d.Generation); {
	case err == nil && sameReservation(have, d):
		return nil
	case err == nil:
		return fail(ErrExists)
	case !errors.Is(err, ErrNotFound):
		return fail(err)
	case stopped:
		return fail(fmt.Errorf("%w: the record is quarantined or scrapped", ErrOutOfUse))
	case contested:
		return fail(fmt.Errorf("%w: its chip is contested", ErrOutOfUse))
	case constraint == "key_point_pkey":
		return fail(ErrPointUsed)
	case constraint != "": // the chip has another identity, or a generation on the line
		return fail(ErrChipActive)
	case next != int64(d.Generation):
		return fail(fmt.Errorf("%w: the chip's next generation is %d", ErrConflict, next))
	case planned:
		return fail(fmt.Errorf("%w: the scrap entry of the identity's old record is not published yet", ErrConflict))
	}
	return fail(ErrIdentityUsed)
}

// sameReservation tells whether a row was made by the same call. What later
// steps wrote doesn't matter; secrets are compared while they are there.
func sameReservation(have, d Device) bool {
	a, errA := encodeSecrets(have.Secrets)
	b, errB := encodeSecrets(d.Secrets)
	return errA == nil && errB == nil && (bytes.Equal(a, b) || len(have.Secrets) == 0 && have.ended()) &&
		have.Identity == d.Identity && have.ChipID == d.ChipID && have.Batch == d.Batch && have.Realm == d.Realm &&
		have.Line == d.Line && have.Station == d.Station && have.Suite == d.Suite && have.IssuedAt == d.IssuedAt &&
		have.KDF == d.KDF && have.Master == d.Master
}

// License appends an audit entry alone: before an act that changes no row, or
// that is repeated. For a kind that concerns a device's keys the device's count
// of uses goes up with it, so that rows and log can be held against each other.
// Once it returned without error the act is licensed; after any error it is not.
// A crash after it leaves a licence nobody used, which is allowed.
func (s *Store) License(ctx context.Context, e audit.Event) error {
	fail := func(err error) error { return fmt.Errorf("license %s with key %q: %w", e.Kind, e.Key, err) }
	body, err := e.Encode()
	if err != nil {
		return fail(err)
	}
	var seq int64
	if e.Kind != audit.DeviceKey {
		if err := s.prepared.Row(ctx, `select audit_append($1)`, []any{body}, &seq); err != nil {
			return fail(err)
		}
		return nil
	}
	const query = `
with counted as (update device set uses = uses + 1 where record_id = $1 and generation = $2 returning uses)
select audit_append($3) from counted`
	err = s.prepared.Row(ctx, query, []any{e.Record[:], int64(e.Generation), body}, &seq)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("record %s, generation %d: %w", e.Record.Short(), e.Generation, ErrNotFound)
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// Known tells which of the identities were ever bound or burned, and how: by
// value, "used by record 0123456789ab" or "burned". It is asked before an import.
func (s *Store) Known(ctx context.Context, ids []identity.Identity) (map[string]string, error) {
	known := map[string]string{}
	err := s.uses(ctx, ids, func(u Use) {
		known[u.Identity.Value()] = "used by record " + u.Record.Short()
		if u.State == UseBurned {
			known[u.Identity.Value()] = "burned"
		}
	})
	if err != nil {
		return nil, fmt.Errorf("look up %d identities: %w", len(ids), err)
	}
	return known, nil
}
