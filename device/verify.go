package device

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// vouched is a manifest for this chip and realm, with the certificate that
// vouches for it: the only thing the device encrypts or decrypts for.
type vouched struct {
	certificate identity.Certificate
	manifest    keypackage.Manifest
	claims      [sha256.Size]byte
}

// verify goes down the chain of authority: ROM key, certificate, this chip,
// this realm, manifest. It reads nothing but its arguments and the chip's
// constants, and changes nothing.
func (d *Device) verify(rom statement.PublicKey, rawCertificate, rawManifest []byte) (vouched, error) {
	c, err := d.verifyCertificate(rom, rawCertificate)
	if err != nil {
		return vouched{}, err
	}
	m, err := d.verifyManifest(c, rawManifest)
	if err != nil {
		return vouched{}, err
	}
	return vouched{certificate: c, manifest: m, claims: c.ClaimsHash()}, nil
}

// verifyCertificate checks by parsing and, once more, as the boot ROM will
// have to: by fixed offsets. A certificate that only one of the two takes
// would be a device that starts here and not in the field.
func (d *Device) verifyCertificate(rom statement.PublicKey, raw []byte) (identity.Certificate, error) {
	c, err := identity.ParseCertificate(raw, rom)
	if err != nil {
		if realm, ok := claimedRealm(raw, rom); ok && realm != d.chip.Realm() {
			return c, refuse(ReasonOtherRealm, err, "the certificate was made in realm %s, this chip is of realm %s", realm, d.chip.Realm())
		}
		return c, refuse(ReasonCertificate, err, "the identity certificate does not verify with the key in ROM")
	}
	if c.ChipID != d.chip.ID() {
		return c, refuse(ReasonNotThisChip, nil, "the identity certificate belongs to record %s, this device is record %s", c.ChipID.RecordID().Short(), d.record.Short())
	}
	if c.Realm != d.chip.Realm() {
		return c, refuse(ReasonOtherRealm, nil, "the certificate was made in realm %s, this chip is of realm %s", c.Realm, d.chip.Realm())
	}
	layout := identity.NewLayout(rom, len(c.Subject.URN()), c.ChipID.Len())
	if err := layout.Verify(raw, rom, d.chip.ID(), d.chip.Realm()); err != nil {
		return c, refuse(ReasonCertificate, err, "the boot ROM would not take the identity certificate")
	}
	return c, nil
}

// claimedRealm tells what a certificate signed by another key than the ROM's
// says of its realm. It serves the message of a refusal and nothing else.
func claimedRealm(raw []byte, rom statement.PublicKey) (identity.Realm, bool) {
	payload, key, err := statement.Unverified(raw, statement.IdentityCertificate, identity.MaxCertificate)
	if err != nil || key == rom.ID() {
		return 0, false
	}
	claims, err := identity.ParseClaims(payload)
	return claims.Realm, err == nil
}

// verifyManifest checks a manifest against the verified certificate. What does
// not match is looked at once more for the clearest reason.
func (d *Device) verifyManifest(c identity.Certificate, raw []byte) (keypackage.Manifest, error) {
	m, err := keypackage.ParseManifest(raw)
	if err != nil {
		return m, refuse(ReasonManifest, err, "the manifest does not read")
	}
	if m.ChipID != d.chip.ID() {
		return m, refuse(ReasonNotThisChip, nil, "the manifest belongs to record %s, this device is record %s", m.ChipID.RecordID().Short(), d.record.Short())
	}
	if m.Realm != d.chip.Realm() {
		return m, refuse(ReasonOtherRealm, nil, "the manifest was made in realm %s, this chip is of realm %s", m.Realm, d.chip.Realm())
	}
	if m.Identity.URN() != c.Subject.URN() {
		return m, refuse(ReasonIdentity, nil, "the manifest names identity %s, the certificate vouches for %s", m.Identity, c.Subject)
	}
	if err := m.Match(raw, c); err != nil {
		return m, refuse(ReasonManifest, err, "the manifest does not match the certificate")
	}
	return m, nil
}

// admit tells whether a verified package may replace what the chip has seen:
// lock first, then the floor.
func (d *Device) admit(ctx context.Context, rom statement.PublicKey, v vouched, unlock []byte) error {
	fuses, err := d.chip.Fuses(ctx)
	if err != nil {
		return fmt.Errorf("read lock and generation floor: %w", err)
	}
	generation := v.certificate.Generation
	if fuses.Locked {
		if err := d.checkUnlock(rom, generation, unlock); err != nil {
			return err
		}
	}
	if generation <= fuses.Floor {
		return refuse(ReasonOlderGeneration, nil, "the package is of generation %d, a new one must be above %d", generation, fuses.Floor)
	}
	return nil
}

// checkUnlock lets a locked device take one package: this record, this
// realm, exactly this generation.
func (d *Device) checkUnlock(rom statement.PublicKey, generation identity.Generation, raw []byte) error {
	if len(raw) == 0 {
		return refuse(ReasonLocked, nil, "it was shipped and locked, and takes a package only with an unlock statement")
	}
	u, err := identity.ParseUnlock(raw, rom)
	if err != nil {
		return refuse(ReasonUnlock, err, "the unlock statement does not verify with the key in ROM")
	}
	switch {
	case u.Record != d.record:
		return refuse(ReasonUnlock, nil, "the unlock statement is for record %s, this device is record %s", u.Record.Short(), d.record.Short())
	case u.Realm != d.chip.Realm():
		return refuse(ReasonUnlock, nil, "the unlock statement is of realm %s, this chip of realm %s", u.Realm, d.chip.Realm())
	case u.Next != generation:
		return refuse(ReasonUnlock, nil, "the unlock statement allows generation %d, the package is of generation %d", u.Next, generation)
	}
	return nil
}

// mayRun tells whether a verified package is new enough to run: nothing below
// the floor comes back, not even this device's own.
func (d *Device) mayRun(ctx context.Context, c identity.Certificate) error {
	fuses, err := d.chip.Fuses(ctx)
	if err != nil {
		return fmt.Errorf("read generation floor: %w", err)
	}
	if c.Generation < fuses.Floor {
		return refuse(ReasonOlderGeneration, nil, "it is of generation %d, this device runs nothing below %d", c.Generation, fuses.Floor)
	}
	return nil
}

// entryError says whose fault it is that a key did not come in.
func entryError(err error) error {
	switch {
	case errors.Is(err, chip.ErrVouch), errors.Is(err, chip.ErrData):
		return refuse(ReasonEntry, err, "a key is not the one that the manifest vouches for")
	case errors.Is(err, chip.ErrAlgorithm):
		return refuse(ReasonAlgorithm, err, "the manifest names a key that this chip cannot hold")
	}
	return fmt.Errorf("unwrap key: %w", err)
}
