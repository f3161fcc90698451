package records

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/identity"
)

// Revocation says that certificates of a station that were issued until a moment
// no longer hold.
type Revocation struct {
	Station string
	At      time.Time // by the database's clock
	Order
}

// maxStation bounds a station's name, in bytes.
const maxStation = 128

// Revoke ends what a station's certificates grant, from its commit on: every
// certificate that begins to hold at or before the revocation's time. Again adds
// another, later one.
//
// A crash before it leaves the station as it was: the order is given again.
func (s *Store) Revoke(ctx context.Context, station string, o Order) (Revocation, error) {
	r := Revocation{Station: station, Order: o}
	fail := func(err error) (Revocation, error) {
		return Revocation{}, fmt.Errorf("revoke station %q: %w", station, err)
	}
	if station == "" || len(station) > maxStation {
		return fail(fmt.Errorf("the name has %d bytes: 1 to %d are needed", len(station), maxStation))
	}
	if !printable(station) {
		return fail(errors.New("the name has characters that can't be printed"))
	}
	err := s.act(ctx, o, func(tx *sql.Tx) (Ordered, error) {
		err := tx.QueryRowContext(ctx, `insert into revocation (station, reason, operator) values ($1, $2, $3) returning at`,
			station, o.Reason, o.Operator).Scan(&r.At)
		return Ordered{Act: ActRevoke, Record: identity.RecordID{}, Subject: station}, err
	})
	if err != nil {
		return fail(err)
	}
	return r, nil
}

const revocationQuery = `select station, at, operator, reason from revocation`

// Revoked gives a station's newest revocation. It matches ErrNotFound. It is
// asked with every call of a station: one look-up by the primary key, for all that ask
// in one moment. It begins after the call, so a revocation that was committed before is seen.
func (s *Store) Revoked(ctx context.Context, station string) (Revocation, error) {
	const query = revocationQuery + ` where station = $1 order by at desc limit 1`
	r, err := s.groups.revoked.Do(ctx, station, func(ctx context.Context) (r revoked, err error) {
		err = s.prepared.Row(ctx, query, []any{station}, &r.Station, &r.At, &r.Operator, &r.Reason)
		if errors.Is(err, sql.ErrNoRows) {
			return r, nil
		}
		r.found = err == nil
		return r, err
	})
	if err == nil && !r.found {
		err = ErrNotFound
	}
	if err != nil {
		return Revocation{}, fmt.Errorf("look for a revocation of station %q: %w", station, err)
	}
	return r.Revocation, nil
}

// Revocations gives all revocations, by station, oldest first.
func (s *Store) Revocations(ctx context.Context) ([]Revocation, error) {
	var all []Revocation
	err := s.prepared.Each(ctx, func(scan func(...any) error) error {
		var r Revocation
		if err := scan(&r.Station, &r.At, &r.Operator, &r.Reason); err != nil {
			return err
		}
		all = append(all, r)
		return nil
	}, revocationQuery+` order by station, at`)
	if err != nil {
		return nil, fmt.Errorf("read revocations: %w", err)
	}
	return all, nil
}
