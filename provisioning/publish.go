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
// device. Repeating it gives the same message.
func (a *Assembly) Publish(ctx context.Context, s Station, record identity.RecordID, g identity.Generation) (Published, error) {
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
	return p, err
}

// published gives the device's row once it is published.
func (a *Assembly) published(ctx context.Context, s Station, id deviceID) (records.Device, error) {
	// Waiting begins before looking: what happens in between is not missed.
	done, leave := a.publisher.wait(id)
	defer leave()
	deadline := time.NewTimer(publishWait)
	defer deadline.Stop()
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for {
		d, err := a.device(ctx, s, id)
		switch {
		case err != nil:
			return d, err
		case d.State == records.Published || d.State == records.Shipped:
			return d, nil
		case d.State != records.Restored:
			return d, notDue("publish", d)
		case d.SetAside != "":
			return d, refuse(CodeSetAside, "set the device aside and have an operator look at spp status", "the registry refused the entry of record %s: %s", id.Record.Short(), d.SetAside)
		}
		select {
		case <-done:
		case <-again.C:
		case <-deadline.C:
			return d, refuse(CodePublication, "go on with other devices and ask again: the entry is safe and goes out as soon as the registry is back",
				"the registry has not acknowledged the entry of record %s yet", id.Record.Short()).after(retryAfter)
		case <-a.stopping:
			return d, refuse(CodeStopping, "ask again: the entry is safe", "the SPP is stopping").after(retryAfter)
		case <-ctx.Done():
			return d, ctx.Err()
		}
	}
}

// Locked takes a device's word that it is locked: it ships (step 9). Without it
// nothing is shipped.
func (a *Assembly) Locked(ctx context.Context, s Station, record identity.RecordID, g identity.Generation, mac []byte) error {
	id := deviceID{record, g}
	unlock, err := a.locks.lock(ctx, record)
	if err != nil {
		return err
	}
	defer unlock()
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
	if err := a.checkMAC(ctx, s, d, keypackage.LockedMessage(sha256.Sum256(d.Claims)), mac, "the locked device"); err != nil {
		return err
	}
	// A crash before this leaves the device published and locked: it says so
	// again as often as it is asked.
	if err := a.records.Shipped(ctx, record, g); err != nil {
		return err
	}
	a.cache.drop(ctx, id)
	return nil
}

// withProving calls f with the key that authenticates the device. A handle
// may have died with its session since Begin: then f is called once more, with
// the key derived again.
func (a *Assembly) withProving(ctx context.Context, actor string, d records.Device, f func(keypackage.MACKey) error) error {
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
		if err == nil || errors.Is(err, statement.ErrSignature) {
			return err
		}
		if attempt == 2 || ctx.Err() != nil {
			return inHSM(err)
		}
		a.cache.drop(ctx, keys.id)
	}
}

// checkMAC checks a device's MAC inside the HSM. A wrong one is refused and
// kept as an incident; nothing else changes.
func (a *Assembly) checkMAC(ctx context.Context, s Station, d records.Device, message, mac []byte, of string) error {
	err := a.withProving(ctx, s.actor(), d, func(k keypackage.MACKey) error { return k.Verify(ctx, message, mac) })
	if !errors.Is(err, statement.ErrSignature) {
		return err
	}
	a.incident(ctx, s, deviceID{d.Record, d.Generation}, CodeMAC, "the MAC of "+of+" is wrong")
	return refuse(CodeMAC, "set the device aside: it does not hold the key it was given, or its message was changed on the way",
		"the MAC of %s, record %s, was not made with the device's key", of, d.Record.Short()).because(err)
}
