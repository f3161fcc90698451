package maker

import (
	"context"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

// MaxDeviceCA is the highest version of the device CA: as many as a verifier trusts at a time
// (devicecert.MaxRoots).
const MaxDeviceCA = 64

// DeviceCALabel gives the label of a version of the device CA's key, which package crypto/x509 uses through
// hsm.Token.Signer: "dev-device-ca" for version 1, which Create makes, then "dev-device-ca-2" and so on.
func DeviceCALabel(realm identity.Realm, version uint32) string {
	if version <= 1 {
		return realm.Prefix() + nameDeviceCA
	}
	return fmt.Sprintf("%s%s-%d", realm.Prefix(), nameDeviceCA, version)
}

// DeviceCASpec gives what the key of a version of the device CA is.
func DeviceCASpec(realm identity.Realm, version uint32) hsm.Spec {
	return hsm.Spec{Kind: hsm.CAKey, Label: DeviceCALabel(realm, version), Token: true}
}

// CreateDeviceCA makes the key of a version of the device CA, from 2 on, beside those of the versions before, which
// must all be there: they stay, so that no label is ever used twice and the certificates that they signed are told
// apart. A version that is there is left as it is. Before is called ahead of the birth, with the act for the audit log;
// if it fails nothing is made.
//
// A crash inside leaves half a key, which the next call sweeps away; one right after it a whole one, without
// certificate, which the next call finds. One such call, or Create, at a time works on a token. In production it
// refuses, as Create does: a CA key must survive its HSM, so a ceremony makes it under this label, with a backup.
func CreateDeviceCA(ctx context.Context, tok *hsm.Token, realm identity.Realm, version uint32, before func(context.Context, Act) error) error {
	fail := func(err error) error {
		return fmt.Errorf("make version %d of the device CA in token %q: %w", version, tok.Info().Label, err)
	}
	switch {
	case realm == identity.Production:
		return fail(fmt.Errorf("production keys are born in a ceremony, with a backup, this one under the label %q", DeviceCALabel(realm, version)))
	case !realm.Valid():
		return fail(fmt.Errorf("%s is not a realm", realm))
	case version < 2 || version > MaxDeviceCA:
		return fail(fmt.Errorf("versions from 2 to %d are made so; custodian setup makes version 1", MaxDeviceCA))
	}
	if _, err := tok.Sweep(ctx); err != nil {
		return fail(err)
	}
	for v := uint32(1); v < version; v++ {
		_, err := tok.Find(ctx, DeviceCASpec(realm, v))
		if errors.Is(err, hsm.ErrNoKey) {
			err = fmt.Errorf("%w: the token has no version %d: versions follow each other, so make that one first", err, v)
		}
		if err != nil {
			return fail(err)
		}
	}
	c := creation{tok: tok, plan: Plan{Realm: realm, Before: before}}
	if _, err := c.key(ctx, DeviceCASpec(realm, version), nil); err != nil {
		return fail(err)
	}
	return nil
}

// openDeviceCAs finds the versions after the first, up to the first that is missing.
func (k *Keys) openDeviceCAs(ctx context.Context, first *hsm.Key) error {
	key := first
	for version := uint32(1); ; version++ {
		public, err := statement.ParsePoint(key.Public())
		if err != nil {
			return fmt.Errorf("key %q: %w", key.Label(), err)
		}
		k.deviceCAs = append(k.deviceCAs, public)
		if version == MaxDeviceCA {
			return nil
		}
		key, err = k.find(ctx, DeviceCASpec(k.realm, version+1))
		switch {
		case errors.Is(err, hsm.ErrNoKey):
			return nil
		case err != nil:
			return fmt.Errorf("version %d of the device CA (custodian device-ca repeats what a crash broke off): %w", version+1, err)
		}
	}
}

// DeviceCA gives the version of the device CA whose key this is: what a CA's certificate is chosen by.
func (k *Keys) DeviceCA(public statement.PublicKey) (version uint32, err error) {
	for i, p := range k.deviceCAs {
		if p == public {
			return uint32(i + 1), nil
		}
	}
	return 0, fmt.Errorf("%s is of none of the token's %d versions of the device CA", public, len(k.deviceCAs))
}
