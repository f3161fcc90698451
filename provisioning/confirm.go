package provisioning

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"strconv"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/statement"
)

// macSize is HMAC-SHA-256's, in bytes: what a device answers with.
const macSize = sha256.Size

// Confirm takes the backup that a device made and wrote to its flash, with the
// device's word for it (steps 5 and 6), and answers with the challenge for its
// restoration. The same call again gets the same challenge; another backup is
// a conflict.
func (a *Assembly) Confirm(ctx context.Context, s Station, record identity.RecordID, g identity.Generation, backup, mac []byte) ([32]byte, error) {
	if _, err := a.admit(ctx, s); err != nil {
		return [32]byte{}, err
	}
	unlock, err := a.locks.lock(ctx, record)
	if err != nil {
		return [32]byte{}, err
	}
	defer unlock()
	return raced(record, func() ([32]byte, error) { return a.confirm(ctx, s, deviceID{record, g}, backup, mac) })
}

func (a *Assembly) confirm(ctx context.Context, s Station, id deviceID, backup, mac []byte) ([32]byte, error) {
	if d, ok := a.cache.row(id, s.Line, records.Packaged); ok {
		a.inFlight(d)
		if challenge, err := a.confirmOnHand(ctx, s, d, backup, mac); err == nil {
			return challenge, nil
		}
		a.cache.forget(id)
	}
	d, err := a.device(ctx, s, id)
	if err != nil {
		return [32]byte{}, err
	}
	a.inFlight(d)
	switch d.State {
	case records.Packaged:
	case records.Confirmed, records.Restored, records.Published, records.Shipped, records.Superseded:
		if bytes.Equal(d.Backup, backup) && bytes.Equal(d.Confirm, mac) {
			return d.Challenge, nil
		}
	default:
		return [32]byte{}, notDue("confirm", d)
	}
	if err := a.checkBackup(ctx, s, d, backup, mac); err != nil {
		return [32]byte{}, err
	}
	if d.State != records.Packaged {
		return [32]byte{}, a.secondConfirmation(ctx, s, d, backup, mac)
	}
	if err := a.checkMAC(ctx, s, d, "confirm", confirmation(d, backup), mac, "the confirmation"); err != nil {
		return [32]byte{}, err
	}
	return a.confirmed(ctx, d, backup, mac)
}

// confirmOnHand confirms by the row that waits with the device's keys. Whatever
// it refuses is looked at again with the row as it is, so no error of it is
// anybody's answer, nor an incident.
func (a *Assembly) confirmOnHand(ctx context.Context, s Station, d records.Device, backup, mac []byte) ([32]byte, error) {
	b, err := keypackage.ParseBackup(backup)
	if err != nil {
		return [32]byte{}, err
	}
	if !bytes.Equal(b.Manifest, d.Manifest) || len(mac) != macSize {
		return [32]byte{}, errNotAsExpected
	}
	if err := a.verifyMAC(ctx, s, d, confirmation(d, backup), mac); err != nil {
		return [32]byte{}, err
	}
	return a.confirmed(ctx, d, backup, mac)
}

// errNotAsExpected ends a try by a row on hand.
var errNotAsExpected = errors.New("not what the row on hand has one expect")

// confirmed keeps a backup that was verified.
func (a *Assembly) confirmed(ctx context.Context, d records.Device, backup, mac []byte) ([32]byte, error) {
	var challenge [32]byte
	rand.Read(challenge[:]) // never fails; a challenge is no secret, so it costs the HSM no call
	// A crash before this leaves the device packaged: it is confirmed again, or
	// takes another transfer. After it, the same confirmation gets this challenge.
	challenge, err := a.records.Confirmed(ctx, d.Record, d.Generation, d.Point, backup, mac, challenge)
	if errors.Is(err, records.ErrConflict) {
		return [32]byte{}, errors.Join(errRaced, err)
	}
	if err != nil {
		return [32]byte{}, err
	}
	d.State, d.Backup, d.Confirm, d.Challenge = records.Confirmed, backup, mac, challenge
	a.cache.keep(d)
	return challenge, nil
}

// confirmation is what a device's word for its backup says. The transcript is of
// the newest transfer: a device that took an older package answers under
// another one and is refused.
func confirmation(d records.Device, backup []byte) []byte {
	return keypackage.ConfirmMessage(keypackage.Transcript(d.Hello, d.Point, d.Claims), sha256.Sum256(backup))
}

// secondConfirmation refuses another backup, or another MAC, for a device that
// was confirmed. A chip uses up its hello with the first package it takes, so
// where the second backup's MAC is the device key's too, two hold that key:
// the record is set apart, if it is on the line; a device in the field only an
// operator stops.
func (a *Assembly) secondConfirmation(ctx context.Context, s Station, d records.Device, backup, mac []byte) error {
	id := deviceID{d.Record, d.Generation}
	detail, proven := "a second confirmation brings another MAC", false
	if !bytes.Equal(backup, d.Backup) {
		err := a.withProving(ctx, s.actor(), d, func(k keypackage.MACKey) error { return k.Verify(ctx, confirmation(d, backup), mac) })
		if err != nil && !errors.Is(err, statement.ErrSignature) {
			return err
		}
		detail, proven = "a second confirmation brings another backup, with a wrong MAC", err == nil
	}
	if proven {
		detail = "two backups are confirmed with one device's key: two hold it"
	}
	refusal := a.conflict(ctx, s, id, "confirm", detail,
		facts{"expected_backup": digest(d.Backup), "came_backup": digest(backup), "state": string(d.State), "proven": strconv.FormatBool(proven)},
		"go on with the backup that was confirmed: the device has it in its flash", "record %s, generation %d, was confirmed with another backup", d.Record.Short(), d.Generation)
	if !proven {
		return refusal
	}
	// A crash before this leaves the incident alone; the same confirmation again
	// comes here again.
	held, err := a.records.QuarantineOnLine(ctx, d.Record, detail)
	if err != nil {
		return err
	}
	if held {
		a.cache.drop(ctx, id)
		a.flights.land(d.Record)
		refusal.next = "set all devices of this record aside: two hold one key; an operator judges"
	}
	return refusal
}

// checkBackup compares what can be compared without the chip's keys: the backup
// code and the manifest, byte for byte. Another manifest is kept as an incident
// that names both records; nobody is stopped by it.
func (a *Assembly) checkBackup(ctx context.Context, s Station, d records.Device, backup, mac []byte) error {
	if len(mac) != macSize {
		return refuse(CodeMalformed, "look at the device's software", "the MAC has %d bytes, %d are expected", len(mac), macSize)
	}
	b, err := keypackage.ParseBackup(backup)
	if errors.Is(err, keypackage.ErrCode) {
		return refuse(CodeBackupCode, "look at the device's software: it sent something else than its backup", "the backup of record %s does not begin with the backup code", d.Record.Short()).because(err)
	}
	if err != nil {
		return refuse(CodeMalformed, "look at the device's software", "%v", err).because(err)
	}
	if bytes.Equal(b.Manifest, d.Manifest) {
		return nil
	}
	f := facts{"expected_manifest": digest(d.Manifest), "came_manifest": digest(b.Manifest), "came_backup": digest(backup), "expected_record": d.Record.String()}
	detail := "a confirmation brings another manifest than the package had"
	if m, err := keypackage.ParseManifest(b.Manifest); err == nil {
		f["came_record"], f["came_generation"] = m.ChipID.RecordID().String(), strconv.FormatUint(uint64(m.Generation), 10)
		if m.ChipID != d.ChipID {
			detail = "a confirmation brings another device's backup"
		}
	}
	a.incident(ctx, s, deviceID{d.Record, d.Generation}, CodeManifest, "confirm", detail, f)
	return refuse(CodeManifest, "look at the device's software: it changed the manifest, or confirms another device's package",
		"the backup of record %s holds another manifest than its package", d.Record.Short())
}

func notDue(call string, d records.Device) *Refusal {
	next := "begin the device again"
	switch d.State {
	case records.Packaged:
		next = "let the device take its package, then confirm"
	case records.Confirmed:
		next = "erase and restore the device, then send its proof"
	case records.Restored:
		next = "wait for the registry: publish"
	case records.Published:
		next = "lock the device"
	case records.Shipped, records.Superseded:
		next = "the device is done"
	case records.Scrapped, records.Quarantined:
		return outOfUse(d)
	}
	return refuse(CodeState, next, "%s is not due: record %s, generation %d, is %s", call, d.Record.Short(), d.Generation, d.State)
}
