package provisioning

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/statement"
)

const (
	// publishWait is how long Publish waits for the registry: a batch takes a
	// fraction of a second, so who waited longer is told that something is away.
	// Well below a station's own deadline.
	publishWait = 8 * time.Second

	// lookAgain is how often a waiting Publish reads the row, in case another
	// SPP on the same databases published it.
	lookAgain = 2 * time.Second
)

// Published is the answer to Publish.
type Published struct {
	MAC      []byte // the Published message's, under the device's key: it raises the floor and locks
	Sequence int64  // the entry's place in the registry
}

// Publish waits, for a bounded time, until the registry has acknowledged the
// device's entry (steps 7 and 8), and answers with the message that locks the
// device. Repeating it gives the same message. While the registry is known to be
// away it does not wait.
func (a *Assembly) Publish(ctx context.Context, s Station, record identity.RecordID, g identity.Generation) (Published, error) {
	if _, err := a.admit(ctx, s); err != nil {
		return Published{}, err
	}
	d, err := a.published(ctx, s, deviceID{record, g})
	if err != nil {
		return Published{}, err
	}
	p := Published{Sequence: d.Sequence}
	message := keypackage.PublishedMessage(sha256.Sum256(d.Claims))
	unlock, err := a.locks.lock(ctx, record)
	if err != nil {
		return Published{}, err
	}
	defer unlock()
	err = a.withProving(ctx, s.actor(), d, func(k keypackage.MACKey) error {
		p.MAC, err = k.MAC(ctx, message)
		return err
	})
	a.cache.keep(d)
	a.inFlight(d)
	return p, err
}

// published gives the device's row once it is published, as it is then.
func (a *Assembly) published(ctx context.Context, s Station, id deviceID) (records.Device, error) {
	// Waiting begins before looking: what happens in between is not missed.
	done, leave := a.publisher.wait(id)
	defer func() { leave() }()
	deadline := time.NewTimer(publishWait)
	defer deadline.Stop()
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	// A device that has just proven its restoration is on its way: its row is
	// looked at once this process has heard of it, or after a while.
	onHand, ok := a.cache.row(id, s.Line, records.Restored)
	if ok {
		a.cache.forget(id)
	}
	for look := !ok; ; look = true {
		d, err := onHand, error(nil)
		if look {
			d, err = a.device(ctx, s, id)
		}
		switch {
		case err != nil:
			return d, err
		case d.State == records.Published || d.State == records.Shipped:
			return d, nil
		case d.State != records.Restored:
			return d, notDue("publish", d)
		case d.SetAside != "":
			a.flights.land(id.Record)
			return d, refuse(CodeSetAside, "set the device aside and have an operator look at spp status", "the registry refused the entry of record %s: %s", id.Record.Short(), d.SetAside)
		}
		if retry, away := a.publisher.ask(); away {
			if !look {
				continue // no refusal by a row that may have changed since
			}
			return d, a.unpublished(id, retry)
		}
		a.inFlight(d)
		select {
		case <-done:
			// What is told is told once; it may have been that the registry is away.
			leave()
			done, leave = a.publisher.wait(id)
		case <-again.C:
		case <-deadline.C:
			return d, a.unpublished(id, retryAfter)
		case <-a.halted:
			return d, refuse(CodeStopping, "ask again: the entry is safe", "the SPP is stopping").after(retryAfter)
		case <-ctx.Done():
			return d, ctx.Err()
		}
	}
}

// unpublished tells a station that its device's entry waits. The device is put
// away meanwhile, so a stop does not wait for it.
func (a *Assembly) unpublished(id deviceID, retry time.Duration) *Refusal {
	a.flights.land(id.Record)
	return refuse(CodePublication, "go on with other devices and ask again: the entry is safe and goes out as soon as the registry is back",
		"the registry has not acknowledged the entry of record %s yet", id.Record.Short()).after(retry)
}

// Locked takes a device's word that it is locked: it ships (step 9). Without it
// nothing is shipped.
func (a *Assembly) Locked(ctx context.Context, s Station, record identity.RecordID, g identity.Generation, mac []byte) error {
	if _, err := a.admit(ctx, s); err != nil {
		return err
	}
	unlock, err := a.locks.lock(ctx, record)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = raced(record, func() (struct{}, error) { return struct{}{}, a.locked(ctx, s, deviceID{record, g}, mac) })
	return err
}

func (a *Assembly) locked(ctx context.Context, s Station, id deviceID, mac []byte) error {
	if d, ok := a.cache.row(id, s.Line, records.Published); ok {
		if len(mac) == macSize && a.verifyMAC(ctx, s, d, locking(d), mac) == nil && a.ship(ctx, d) == nil {
			return nil
		}
		a.cache.forget(id) // not as expected: by the row as it is
	}
	d, err := a.device(ctx, s, id)
	if err != nil {
		return err
	}
	if d.State != records.Published && d.State != records.Shipped {
		return notDue("locked", d)
	}
	if len(mac) != macSize {
		return refuse(CodeMalformed, "look at the device's software", "the MAC has %d bytes, %d are expected", len(mac), macSize)
	}
	// A shipped device's MAC is checked again: the same word is confirmed, a
	// wrong one refused, at the price of deriving the key once more.
	if err := a.checkMAC(ctx, s, d, "locked", locking(d), mac, "the locked device"); err != nil {
		return err
	}
	return a.ship(ctx, d)
}

// locking is what a locked device says.
func locking(d records.Device) []byte { return keypackage.LockedMessage(sha256.Sum256(d.Claims)) }

// ship ends the line's work on a device whose word was verified.
func (a *Assembly) ship(ctx context.Context, d records.Device) error {
	// A crash before this leaves the device published and locked: it says so
	// again as often as it is asked.
	err := a.records.Shipped(ctx, d.Record, d.Generation)
	if errors.Is(err, records.ErrConflict) {
		return errors.Join(errRaced, err) // quarantined, or replaced by a next generation
	}
	if err != nil {
		return err
	}
	a.cache.drop(ctx, deviceID{d.Record, d.Generation})
	a.flights.land(d.Record)
	return nil
}

// withProving calls f with the key that authenticates the device. A handle
// may have died with its session since Begin: then f is called once more, with
// the key derived again.
func (a *Assembly) withProving(ctx context.Context, actor string, d records.Device, f func(keypackage.MACKey) error) error {
	if err := a.keys.ready(); err != nil {
		return err
	}
	m, err := keypackage.ParseManifest(d.Manifest)
	if err != nil {
		return err
	}
	i, ok := m.Proving()
	if !ok {
		return errNoDerivedKey
	}
	for attempt := 1; ; attempt++ {
		keys, err := a.keysAgain(ctx, actor, d)
		if err != nil {
			return err
		}
		key := keys.named[m.Entries[i].Key.Name]
		if key == nil {
			err = errNoDerivedKey
		} else {
			err = f(key)
		}
		a.cache.release(ctx, keys)
		if err == nil || a.keys.faultOf(err) == FaultRequest || a.keys.ready() != nil || attempt == 2 || ctx.Err() != nil {
			return err
		}
		a.cache.drop(ctx, keys.id)
	}
}

// checkMAC checks a device's MAC inside the HSM. A wrong one is refused and
// kept as an incident; nothing else changes.
func (a *Assembly) checkMAC(ctx context.Context, s Station, d records.Device, step string, message, mac []byte, of string) error {
	err := a.verifyMAC(ctx, s, d, message, mac)
	if !errors.Is(err, statement.ErrSignature) {
		return err
	}
	a.incident(ctx, s, deviceID{d.Record, d.Generation}, CodeMAC, step, "the MAC of "+of+" is wrong",
		facts{"state": string(d.State), "message": digest(message)})
	return refuse(CodeMAC, "set the device aside: it does not hold the key it was given, or its message was changed on the way",
		"the MAC of %s, record %s, was not made with the device's key", of, d.Record.Short()).because(err)
}

// verifyMAC checks a device's MAC inside the HSM: statement.ErrSignature.
func (a *Assembly) verifyMAC(ctx context.Context, s Station, d records.Device, message, mac []byte) error {
	return a.withProving(ctx, s.actor(), d, func(k keypackage.MACKey) error { return k.Verify(ctx, message, mac) })
}
