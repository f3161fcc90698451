package device

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// Restore puts a published backup back into flash. It first does all that a
// boot would do with it, inside the chip: what gets into flash is known to
// run. A refusal leaves flash as it was. Boot starts what was restored.
//
// A crash leaves flash's old content or the new one: restore again.
func (d *Device) Restore(ctx context.Context, certificate, backup []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.use(); err != nil {
		return err
	}
	rom, err := d.romKey(ctx)
	if err != nil {
		return err
	}
	b, err := d.recover(ctx, rom, certificate, backup)
	if err != nil {
		return err
	}
	d.releaseKeys(ctx, b.keys)
	if err := d.flash.WriteIdentity(encodeStored(certificate, backup)); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	d.stop(ctx) // what ran before is no longer what flash holds
	d.names = entryNames(b.manifest)
	d.log.InfoContext(ctx, "flash restored", "generation", b.certificate.Generation)
	return nil
}

// booted is a package that was verified and opened in the chip.
type booted struct {
	vouched
	backup  [sha256.Size]byte
	keys    map[int]chip.Key // by entry; resident
	secrets []keypackage.Secret
}

// recover verifies a backup and opens it in the chip: backup code,
// certificate, chip, realm, manifest, floor, then ciphertext and every entry.
// Its keys are the caller's to release.
func (d *Device) recover(ctx context.Context, rom statement.PublicKey, certificate, backup []byte) (*booted, error) {
	p, err := keypackage.ParseBackup(backup)
	if errors.Is(err, keypackage.ErrCode) {
		return nil, refuse(ReasonBackupCode, err, "this is no backup data package")
	} else if err != nil {
		return nil, refuse(ReasonBackup, err, "the backup data package does not read")
	}
	v, err := d.verify(rom, certificate, p.Manifest)
	if err != nil {
		return nil, err
	}
	if err := d.mayRun(ctx, v.certificate); err != nil {
		return nil, err
	}
	if _, ok := proving(v.manifest); !ok {
		return nil, refuse(ReasonAlgorithm, nil, "no key of the package could prove anything")
	}
	recovery, err := d.chip.Recover(ctx, v.claims)
	if err != nil {
		return nil, fmt.Errorf("open backup: %w", err)
	}
	defer d.release(ctx, "recovery", recovery.Close)
	plain, err := recovery.Open(ctx, p.Sealed)
	if errors.Is(err, chip.ErrData) {
		return nil, refuse(ReasonBackup, err, "the backup does not open under this chip's key: it was changed, or another chip made it")
	} else if err != nil {
		return nil, fmt.Errorf("open backup: %w", err)
	}
	contents, err := keypackage.ParseContents(plain, v.manifest)
	if err != nil {
		return nil, refuse(ReasonEntry, err, "the backup does not hold what the manifest names")
	}
	b := &booted{vouched: v, backup: sha256.Sum256(backup), keys: map[int]chip.Key{}, secrets: contents.Secrets}
	for i, at := range v.manifest.Wrapped() {
		k, err := recovery.Unwrap(ctx, v.manifest, at, contents.Wrapped[i])
		if err != nil {
			d.releaseKeys(ctx, b.keys)
			return nil, entryError(err)
		}
		b.keys[at] = k
	}
	return b, nil
}
