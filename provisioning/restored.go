package provisioning

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry"
)

// Restored takes a device's proof that it was erased, restored from its backup
// and booted. From then on its registry entry waits in the outbox.
func (a *Assembly) Restored(ctx context.Context, s Station, record identity.RecordID, g identity.Generation, mac []byte) error {
	if _, err := a.admit(ctx, s); err != nil {
		return err
	}
	unlock, err := a.locks.lock(ctx, record)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = raced(record, func() (struct{}, error) { return struct{}{}, a.restored(ctx, s, deviceID{record, g}, mac) })
	return err
}

func (a *Assembly) restored(ctx context.Context, s Station, id deviceID, mac []byte) error {
	if d, ok := a.cache.row(id, s.Line, records.Confirmed); ok {
		a.inFlight(d)
		if len(mac) == macSize && a.verifyMAC(ctx, s, d, restoration(d), mac) == nil && a.proven(ctx, d, mac) == nil {
			return nil
		}
		a.cache.forget(id) // not as expected: by the row as it is
	}
	d, err := a.device(ctx, s, id)
	if err != nil {
		return err
	}
	a.inFlight(d)
	switch d.State {
	case records.Confirmed:
	case records.Restored, records.Published, records.Shipped, records.Superseded:
		if bytes.Equal(d.Proof, mac) {
			return nil
		}
		return a.conflict(ctx, s, id, "restored", "a second proof of restoration differs from the first", facts{"state": string(d.State), "expected_backup": digest(d.Backup)},
			"go on: the device's proof is kept", "record %s, generation %d, was restored with another proof", d.Record.Short(), d.Generation)
	default:
		return notDue("the proof of restoration", d)
	}
	if len(mac) != macSize {
		return refuse(CodeMalformed, "look at the device's software", "the MAC has %d bytes, %d are expected", len(mac), macSize)
	}
	if err := a.checkMAC(ctx, s, d, "restored", restoration(d), mac, "the proof of restoration"); err != nil {
		return err
	}
	return a.proven(ctx, d, mac)
}

// restoration is what a device's proof says.
func restoration(d records.Device) []byte {
	return keypackage.RestoredMessage(sha256.Sum256(d.Claims), sha256.Sum256(d.Backup), d.Challenge)
}

// proven keeps a proof that was verified, and puts the entry in the outbox.
func (a *Assembly) proven(ctx context.Context, d records.Device, mac []byte) error {
	entry, err := a.entry(ctx, d)
	if err != nil {
		return err
	}
	// The entry's bytes hold a random nonce: they are stored before anybody sees
	// them, so that every submission brings the same ones. A crash before this
	// leaves the device confirmed; it proves its restoration again.
	certificates, err := a.certificatesEntry(d)
	if err != nil {
		return err
	}
	err = a.records.Restored(ctx, d.Record, d.Generation, mac, entry, certificates)
	if errors.Is(err, records.ErrConflict) {
		return errors.Join(errRaced, err)
	}
	if err != nil {
		return err
	}
	d.State, d.Proof = records.Restored, mac
	a.cache.keep(d)
	a.publisher.expect(deviceID{d.Record, d.Generation})
	return nil
}

// entry makes the device's registry entry. A next generation supersedes one
// that the registry has; one after a burned generation is the first there.
func (a *Assembly) entry(ctx context.Context, d records.Device) ([]byte, error) {
	e := registry.Entry{Realm: a.realm, Type: registry.Register, Generation: d.Generation}
	for g := d.Generation - 1; g > 0 && e.Type == registry.Register; g-- {
		before, err := a.records.Get(ctx, d.Record, g)
		if err != nil {
			return nil, err
		}
		if !before.PublishedAt.IsZero() {
			e.Type = registry.Supersede
		}
	}
	e, err := registry.Seal(rand.Reader, d.ChipID, e, registry.Record{Certificate: d.Certificate, Backup: d.Backup, X509: d.X509})
	if err != nil {
		return nil, err
	}
	return e.Encode()
}
