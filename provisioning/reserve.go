package provisioning

import (
	"context"
	"errors"
	"fmt"

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
		r, err := b.pool.Reserve(ctx, b.profile.Name, ranges(s, b.profile), record, g)
		switch {
		case errors.Is(err, pool.ErrEmpty):
			return refuse(CodePoolEmpty, "import identities: spp pool import", "the pool of product line %q is empty", b.profile.Name).because(err)
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
		err = b.license(ctx, g, r.Identity, r.Batch)
		switch {
		case errors.Is(err, records.ErrIdentityUsed):
			b.incident(ctx, s, deviceID{record, g}, CodeConflict, fmt.Sprintf("the pool gave %s %s, which was used before; it is burned there", r.Identity.Type(), r.Identity))
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

// license draws a device's secrets, seals them, and commits its first row
// together with the audit entry that licenses deriving its keys and signing its
// claims.
func (b *beginning) license(ctx context.Context, g identity.Generation, id identity.Identity, batch int64) error {
	p := b.profile
	d := records.Device{
		Record: b.hello.ChipID.RecordID(), ChipID: b.hello.ChipID, Generation: g, Identity: id, Batch: batch,
		Realm: b.realm, Line: p.Name, Station: b.station.Station, State: records.Reserved,
		Suite: b.hello.Suite, IssuedAt: uint32(b.now().Unix()), KDF: p.KDF, Master: p.MasterVersion,
	}
	wipe(b.secrets) // of an identity that was used before
	var err error
	if b.secrets, err = b.drawSecrets(ctx, p, id); err != nil {
		return err
	}
	if d.Secrets, err = b.keepSecrets(ctx, p, d, b.secrets); err != nil {
		return err
	}
	// A crash before the commit leaves sealed secrets that nobody has; after it
	// a device to go on with.
	err = b.records.Reserve(ctx, d, b.event(audit.Assemble, b.station.actor(), d, derivedOf(p)))
	if errors.Is(err, records.ErrExists) || errors.Is(err, records.ErrConflict) {
		return errors.Join(errRaced, err)
	}
	if err != nil {
		return err
	}
	b.device, b.licensed = d, true
	return nil
}
