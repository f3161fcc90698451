package provisioning

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// Bounds of a reservation's life: how long a device may lie between two steps
// before it and its identity are burned. A weekend and a holiday fit the
// default; below an hour, a break would burn identities.
const (
	DefaultReservationLife = 7 * 24 * time.Hour
	MinReservationLife     = time.Hour
	MaxReservationLife     = 365 * 24 * time.Hour
)

// stalePage is how many generations one round burns at most: a round is
// bounded in time, and there is another one a minute later.
const stalePage = 200

// staleTurn is how long a burning waits for a record's turn: who holds it is a
// station's call, and what is worked on is not stale.
const staleTurn = 100 * time.Millisecond

// burnStale burns what nobody went on with for a reservation's life:
// reservations without a device, and devices that stand before their proof of
// restoration. An identity is never returned, since nobody can prove that no
// device took it. While clocks disagree nothing is burned.
//
// Records come first, then the pool. A crash in between leaves a reservation
// whose device or identity is burned; the next round, of any SPP, ends it.
func (a *Assembly) burnStale(ctx context.Context) error {
	if err := a.clocksAgree(ctx); err != nil {
		return err
	}
	var failed []error
	stale, err := a.records.Stale(ctx, a.life, stalePage)
	if err != nil {
		failed = append(failed, err) // rows that don't parse; the others are there
	}
	for _, d := range stale {
		if err := a.burnDevice(ctx, d); err != nil {
			failed = append(failed, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	reserved, err := a.pool.Reservations(ctx, a.life)
	if err != nil {
		failed = append(failed, err)
	}
	for _, r := range reserved {
		if err := a.burnUnclaimed(ctx, r); err != nil {
			failed = append(failed, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failed...)
}

func (a *Assembly) staleReason(state string) string {
	return fmt.Sprintf("%s, and nobody went on with it for %s", state, a.life)
}

// burnDevice burns one stale generation. A next one of a device in the field is
// abandoned: the identity stays the device's.
func (a *Assembly) burnDevice(ctx context.Context, d records.Device) error {
	turn, cancel := context.WithTimeout(ctx, staleTurn)
	defer cancel()
	unlock, err := a.locks.lock(turn, d.Record)
	if err != nil {
		return nil // somebody works on it: it is not stale any more
	}
	defer unlock()
	reason := a.staleReason(string(d.State))
	id := deviceID{d.Record, d.Generation}
	kept, err := a.earlier(ctx, d)
	switch {
	case errors.Is(err, records.ErrNotFound):
		err = a.burn(ctx, d, reason)
	case err == nil && kept.State.InField():
		err = a.records.AbandonStale(ctx, d.Record, d.Generation, reason)
	case err == nil:
		return nil // quarantined as a whole: an operator decides
	}
	if errors.Is(err, records.ErrConflict) {
		return nil // it went on meanwhile
	}
	if err != nil {
		return err
	}
	a.cache.drop(ctx, id)
	a.metrics.burned.Inc()
	a.log.WarnContext(ctx, "a stale device was burned", "record", d.Record.Short(), "generation", d.Generation, "state", string(d.State), "reason", reason)
	return nil
}

// burn burns a generation with its identity, in the records, then in the pool.
func (a *Assembly) burn(ctx context.Context, d records.Device, reason string) error {
	if err := a.records.Burned(ctx, d.Identity, d.Batch, reason); err != nil {
		return err
	}
	return a.pool.Burn(ctx, d.Identity, reason)
}

// burnUnclaimed burns a reservation that no device row took.
func (a *Assembly) burnUnclaimed(ctx context.Context, r pool.Reserved) error {
	d, err := a.records.Get(ctx, r.Record, r.Generation)
	switch {
	case err == nil && d.Identity == r.Identity:
		return nil // its device's state says what becomes of it
	case err != nil && !errors.Is(err, records.ErrNotFound):
		return err
	}
	turn, cancel := context.WithTimeout(ctx, staleTurn)
	defer cancel()
	unlock, err := a.locks.lock(turn, r.Record)
	if err != nil {
		return nil // its chip is here
	}
	defer unlock()
	reason := a.staleReason("reserved without a device")
	burned, err := a.records.BurnUnclaimed(ctx, r.Identity, r.Batch, reason)
	if err != nil {
		return err
	}
	if !burned {
		return nil // a device took it a moment ago
	}
	if err := a.pool.Burn(ctx, r.Identity, reason); err != nil {
		return err
	}
	a.metrics.burned.Inc()
	a.log.WarnContext(ctx, "a stale reservation was burned", "record", r.Record.Short(), "generation", r.Generation, "reason", reason)
	return nil
}

// earlier gives the newest generation before d that is not burned: what the
// device holds, if anything. It matches records.ErrNotFound.
func (a *Assembly) earlier(ctx context.Context, d records.Device) (records.Device, error) {
	for g := d.Generation - 1; g > 0; g-- {
		before, err := a.records.Get(ctx, d.Record, g)
		if err != nil || before.State != records.Burned {
			return before, err
		}
	}
	return records.Device{}, records.ErrNotFound
}
