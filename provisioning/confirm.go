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
)

// macSize is HMAC-SHA-256's, in bytes: what a device answers with.
const macSize = sha256.Size

// Confirm takes the backup that a device made and wrote to its flash, with the
// device's word for it (steps 5 and 6), and answers with the challenge for its
// restoration. The same call again gets the same challenge; another backup is
// a conflict.
func (a *Assembly) Confirm(ctx context.Context, s Station, record identity.RecordID, g identity.Generation, backup, mac []byte) ([32]byte, error) {
	id := deviceID{record, g}
	unlock, err := a.locks.lock(ctx, record)
	if err != nil {
		return [32]byte{}, err
	}
	defer unlock()
	d, err := a.device(ctx, s, id)
	if err != nil {
		return [32]byte{}, err
	}
	switch d.State {
	case records.Packaged:
	case records.Confirmed, records.Restored, records.Published, records.Shipped, records.Superseded:
		if bytes.Equal(d.Backup, backup) && bytes.Equal(d.Confirm, mac) {
			return d.Challenge, nil
		}
		a.incident(ctx, s, id, CodeConflict, "a second confirmation brings another backup or MAC")
		return [32]byte{}, refuse(CodeConflict, "go on with the backup that was confirmed: the device has it in its flash",
			"record %s, generation %d, was confirmed with another backup", record.Short(), g)
	default:
		return [32]byte{}, notDue("confirm", d)
	}
	if err := checkBackup(d, backup, mac); err != nil {
		return [32]byte{}, err
	}
	// The transcript is of the newest transfer: a device that took an older
	// package answers under another one and is refused.
	t := keypackage.Transcript(d.Hello, d.Point, d.Claims)
	if err := a.checkMAC(ctx, s, d, keypackage.ConfirmMessage(t, sha256.Sum256(backup)), mac, "the confirmation"); err != nil {
		return [32]byte{}, err
	}
	var challenge [32]byte
	rand.Read(challenge[:]) // never fails; a challenge is no secret, so it costs the HSM no call
	// A crash before this leaves the device packaged: it is confirmed again, or
	// takes another transfer. After it, the same confirmation gets this challenge.
	d, err = a.records.Confirmed(ctx, record, g, backup, mac, challenge)
	if errors.Is(err, records.ErrConflict) {
		return [32]byte{}, refuse(CodeConflict, "send the request again", "record %s, generation %d, moved on meanwhile", record.Short(), g).because(err).after(retryAfter)
	}
	return d.Challenge, err
}

// checkBackup compares what can be compared without the chip's keys: the backup
// code and the manifest, byte for byte.
func checkBackup(d records.Device, backup, mac []byte) error {
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
	if !bytes.Equal(b.Manifest, d.Manifest) {
		return refuse(CodeManifest, "look at the device's software: it changed the manifest, or confirms another device's package",
			"the backup of record %s holds another manifest than its package", d.Record.Short())
	}
	return nil
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
	case records.Burned, records.Scrapped, records.Quarantined:
		next = "set the device aside"
	}
	return refuse(CodeState, next, "%s is not due: record %s, generation %d, is %s", call, d.Record.Short(), d.Generation, d.State)
}
