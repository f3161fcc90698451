package chip

import (
	"context"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
)

// Manufacture does the chip maker's work on an initialised token: a chip key
// and an attestation key, generated inside and never seen, and a chip ID of
// size (16, 24 or 32) bytes from the token's own generator. The maker keeps no
// copy of anything secret.
//
// The chip ID is written last and marks a finished chip. A crash before it
// leaves keys, whole or half written: the same call again removes the broken
// ones, keeps the whole ones, and finishes. A finished chip stays as it is.
func Manufacture(ctx context.Context, t *hsm.Token, realm identity.Realm, size int) error {
	if !realm.Valid() || (size != 16 && size != 24 && size != 32) {
		return fmt.Errorf("make chip: realm %s, chip ID of %d bytes: a realm and 16, 24 or 32 bytes are needed", realm, size)
	}
	objects, err := t.Data(ctx, application, "")
	if err != nil {
		return fmt.Errorf("make chip: %w", err)
	}
	if len(objects) > 0 {
		// It has a chip ID, and perhaps a ROM key since: finished, or nothing
		// that could be mended.
		_, _, err := readID(ctx, t)
		return err
	}
	if err := generate(ctx, t, hsm.Spec{Kind: hsm.ChipKey, Label: realm.Prefix() + labelChipKey, Token: true}); err != nil {
		return err
	}
	if err := generate(ctx, t, hsm.Spec{Kind: hsm.AttestationKey, Label: realm.Prefix() + labelAttestation, Token: true}); err != nil {
		return err
	}
	id, err := t.Random(ctx, size)
	if err != nil {
		return fmt.Errorf("make chip: %w", err)
	}
	return putID(ctx, t, realm, id)
}

func putID(ctx context.Context, t *hsm.Token, realm identity.Realm, id []byte) error {
	if _, err := identity.ParseChipID(id); err != nil {
		return fmt.Errorf("make chip: %w", err)
	}
	if err := t.PutData(ctx, hsm.Data{Application: application, Label: realm.Prefix() + labelChipID, Value: id, Private: true, OneWay: true}); err != nil {
		return fmt.Errorf("make chip: %w", err)
	}
	return nil
}

// generate makes a key unless a whole one is there from a run that was cut off.
func generate(ctx context.Context, t *hsm.Token, s hsm.Spec) error {
	_, err := t.Generate(ctx, s)
	if err == nil {
		return nil
	}
	// The label is in use, or something failed: look, sweep, look again.
	if _, found := t.Find(ctx, s); found == nil {
		return nil
	}
	if _, sweep := t.Sweep(ctx); sweep != nil {
		return fmt.Errorf("make chip: %w", errors.Join(err, sweep))
	}
	if _, err := t.Generate(ctx, s); err != nil {
		return fmt.Errorf("make chip: %w", err)
	}
	return nil
}
