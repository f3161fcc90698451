package provisioning

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// maxStale bounds how many identities one Begin finds in the pool that the
// records know as used: a pool restored from an old backup has many, and a
// station shall not wait until all are burned.
const maxStale = 8

// reserve takes an identity from the pool and writes the device's first row.
//
// A crash between the two leaves a reservation in the pool without a row. The
// next Begin of this chip gets the same identity, since a reservation belongs
// to a record and generation.
func (b *beginning) reserve(ctx context.Context, g identity.Generation) error {
	s, record := b.station, b.hello.ChipID.RecordID()
	for range maxStale {
		r, err := b.pool.Reserve(ctx, b.profile.Name, ranges(s, b.profile), b.profile.InPool(), record, g)
		switch {
		case errors.Is(err, pool.ErrEmpty):
			return refuse(CodePoolEmpty, "import identities: spp pool import", "the pool of product line %q is empty", b.profile.Name).because(err)
		case errors.Is(err, pool.ErrNoKeys):
			return refuse(CodePoolEmpty, "make keys in advance: spp pool generate; or import them: spp pool import-keys", "the pool of product line %q has identities, but none with all keys", b.profile.Name).because(err)
		case errors.Is(err, pool.ErrOutOfRange):
			return refuse(CodeTACRange, "import identities of the station's range, or have its certificate renewed with the range in use",
				"the pool has no identity in the range of station %q", s.Station).because(err)
		case errors.Is(err, pool.ErrBusy):
			return refuse(CodeBusy, "send the request again", "the last identities of product line %q are being taken by others", b.profile.Name).because(err).after(retryAfter)
		case err != nil:
			return err
		case r.Identity.Type() != b.profile.Identity:
			return refuse(CodeProfile, "import identities of the type that the profile names", "the pool of product line %q holds identities of type %s, its profile says %s",
				b.profile.Name, r.Identity.Type(), b.profile.Identity)
		}
		// A reservation may be older than the station's certificate.
		if err := s.Allows(r.Identity); err != nil {
			return refuse(CodeTACRange, "take the device back to the station that began it", "%v", err).because(err)
		}
		waiting, err := b.waitingWith(ctx, r.Identity)
		if err != nil {
			return err
		}
		err = b.license(ctx, g, r.Identity, r.Batch, waiting)
		switch {
		case errors.Is(err, records.ErrIdentityUsed):
			b.incident(ctx, s, deviceID{record, g}, CodeConflict, "begin", fmt.Sprintf("the pool gave %s %s, which was used before; it is burned there", r.Identity.Type(), r.Identity),
				facts{"batch": strconv.FormatInt(r.Batch, 10)})
			if err := b.pool.Burn(ctx, r.Identity, "used before, as the records know"); err != nil {
				return err
			}
		case errors.Is(err, records.ErrChipActive):
			return refuse(CodeActive, "look the record up: spp status", "the chip of record %s is active already", record.Short()).because(err)
		default:
			return err
		}
	}
	return refuse(CodeConflict, "stop the line: the pool holds identities that were used before; was it restored from an old backup?",
		"the pool of product line %q gave %d identities in a row that were used before", b.profile.Name, maxStale)
}

// move gives a chip the identity of a scrapped board, as an operator planned. The
// pool is not asked: the identity left it with the old board.
//
// The old record's scrap entry stands in the registry first: otherwise two
// records could be served for one identity.
func (b *beginning) move(ctx context.Context, g identity.Generation, plan records.Plan) error {
	s, id := b.station, deviceID{plan.Record, g}
	if !plan.Clear {
		retry, away := b.publisher.ask()
		if !away {
			retry = retryAfter
		}
		return refuse(CodePublication, "ask again: the entry is safe and goes out as soon as the registry is back; if it was set aside, spp outbox list says why",
			"the registry has not yet taken note that record %s is scrapped, whose identity record %s gets", plan.From.Short(), plan.Record.Short()).after(retry)
	}
	if plan.Identity.Type() != b.profile.Identity {
		return refuse(CodeProfile, "take the chip to the product line of the scrapped board", "record %s gets an identity of type %s, product line %q has %s",
			plan.Record.Short(), plan.Identity.Type(), b.profile.Name, b.profile.Identity)
	}
	if err := s.Allows(plan.Identity); err != nil {
		return refuse(CodeTACRange, "take the device to a station of the identity's range", "%v", err).because(err)
	}
	err := b.license(ctx, g, plan.Identity, plan.Batch, nil)
	switch {
	case errors.Is(err, records.ErrIdentityUsed):
		return b.conflict(ctx, s, id, "begin", "the identity that a board swap planned for the chip is another record's", facts{"from_record": plan.From.String()},
			"set the device aside and have an operator look at both: spp device show", "the identity that record %s was to get is in use", id.Record.Short())
	case errors.Is(err, records.ErrChipActive):
		return refuse(CodeActive, "look the record up: spp device show", "the chip of record %s is active already", id.Record.Short()).because(err)
	}
	return err
}

// ranges is what the station's certificate says about type allocation codes,
// in the pool's terms.
func ranges(s Station, p profile.Profile) []pool.Range {
	if p.Identity != identity.TypeIMEI {
		return nil
	}
	var out []pool.Range
	for _, t := range s.TACs {
		out = append(out, pool.Range{From: string(t.From) + "000000", To: string(t.To) + "999999"})
	}
	return out
}

// license draws a device's secrets and makes its keys, seals them, and commits
// its first row together with the audit entry that licenses deriving its keys and
// signing its claims. Keys and secrets that waited in the pool come sealed and stay so.
func (b *beginning) license(ctx context.Context, g identity.Generation, id identity.Identity, batch int64, waited sealedByEntry) error {
	p := b.profile
	issued := b.now().Unix()
	if issued <= 0 || issued > math.MaxUint32 {
		return fmt.Errorf("this machine's clock says %s: a certificate can't be issued then; set it right", b.now().UTC())
	}
	d := records.Device{
		Record: b.hello.ChipID.RecordID(), ChipID: b.hello.ChipID, Generation: g, Identity: id, Batch: batch,
		Realm: b.realm, Line: p.Name, Station: b.station.Station, State: records.Reserved,
		Suite: b.hello.Suite, IssuedAt: uint32(issued), KDF: p.KDF, Master: p.MasterVersion,
	}
	wipe(b.secrets) // of an identity that was used before
	var err error
	if b.secrets, err = b.drawSecrets(ctx, p, id, waited); err != nil {
		return err
	}
	if err = b.makeKeys(ctx, b.secrets, waited); err != nil {
		return err
	}
	if d.Secrets, err = b.keepSecrets(ctx, p, d, b.secrets, waited); err != nil {
		return err
	}
	if err = b.openWaited(ctx, d, waited); err != nil {
		return err
	}
	if err = b.checkWaited(id, waited); err != nil {
		return err
	}
	if d.Points, err = b.points(); err != nil {
		return err
	}
	licence, err := b.eventOf(audit.Assemble, d, derivedOf(p))
	if err != nil {
		return err
	}
	// A crash before the commit leaves sealed secrets that nobody has; after it
	// a device to go on with.
	err = b.records.Reserve(ctx, d, licence)
	if errors.Is(err, records.ErrExists) || errors.Is(err, records.ErrConflict) {
		return errors.Join(errRaced, err)
	}
	if errors.Is(err, records.ErrPointUsed) {
		return b.poolKey(ctx, d, "a public key of the device is another one's", facts{"points": digests(d.Points)}).because(err)
	}
	if err != nil {
		return err
	}
	b.device, b.licensed = d, true
	return nil
}
