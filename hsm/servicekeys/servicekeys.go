// Package servicekeys is what the device service's HSM holds: its transport key, and the
// purpose keys that custodians have sent it, of which it needs the channel's alone. It
// holds no master key: whoever breaks into the service can speak for devices in their
// channels, and no more.
//
//	dev-transport            takes the purpose keys, and devices' keys that were made
//	dev-purpose-channel-1    purpose key "channel", of master version 1
//
// A purpose key's KDF stands beside it, in a data object that can neither be changed nor
// destroyed. It is written last: a key without it is one whose import a crash broke off,
// and is imported again.
package servicekeys

import (
	"context"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/hsm/transport"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// application is CKA_APPLICATION of the records in the token.
const application = "devicekeys-service"

// Create makes the transport key, if there is none, and gives its public half. A crash
// leaves no key, a whole one, or half of one, which the next Create names.
func Create(ctx context.Context, tok *hsm.Token, realm identity.Realm) (statement.PublicKey, error) {
	fail := func(err error) (statement.PublicKey, error) {
		return statement.PublicKey{}, fmt.Errorf("create the device service's keys in token %q: %w", tok.Info().Label, err)
	}
	k, err := tok.Find(ctx, transport.Spec(realm))
	if errors.Is(err, hsm.ErrNoKey) {
		k, err = tok.Generate(ctx, transport.Spec(realm))
	}
	if err != nil {
		return fail(err)
	}
	p, err := statement.ParsePoint(k.Public())
	if err != nil {
		return fail(err)
	}
	return p, nil
}

// ErrCheck says that an imported key isn't the one that was exported.
var ErrCheck = errors.New("the check value is another")

// Import takes a purpose key that maker.ExportPurpose gave, into the token, where it never
// leaves. check is what was shown at the export: without it anybody could send a key of
// theirs. Importing the same again does nothing.
func Import(ctx context.Context, tok *hsm.Token, realm identity.Realm, blob []byte, check string) (maker.Purpose, error) {
	fail := func(err error) (maker.Purpose, error) {
		return maker.Purpose{}, fmt.Errorf("import purpose key into token %q: %w", tok.Info().Label, err)
	}
	label, err := transport.ReadLabel(blob)
	if err != nil {
		return fail(err)
	}
	p, err := maker.ParseTransportLabel(realm, label)
	if err != nil {
		return fail(err)
	}
	own, err := tok.Find(ctx, transport.Spec(realm))
	if err != nil {
		return fail(err)
	}
	// First as a session object: a key that isn't the right one never lasts.
	try, err := transport.Unwrap(ctx, tok, own, realm, label, blob, spec(p, false))
	if err != nil {
		return fail(err)
	}
	got, err := maker.CheckPurpose(ctx, tok, try, p)
	if err = errors.Join(err, try.Destroy(context.WithoutCancel(ctx))); err != nil {
		return fail(err)
	}
	if got != check {
		return fail(fmt.Errorf("%w: compare it with the one that custodian purpose export showed", ErrCheck))
	}
	key, err := tok.Find(ctx, spec(p, true))
	if errors.Is(err, hsm.ErrNoKey) {
		key, err = transport.Unwrap(ctx, tok, own, realm, label, blob, spec(p, true))
	}
	if err != nil {
		return fail(err)
	}
	if got, err = maker.CheckPurpose(ctx, tok, key, p); err != nil {
		return fail(err)
	}
	if got != check {
		return fail(fmt.Errorf("%w: %q is in the token already and is another key; find out what made it", ErrCheck, p.Label()))
	}
	all, err := records(ctx, tok, realm)
	if err != nil {
		return fail(err)
	}
	for _, r := range all {
		if r == p {
			return p, nil
		}
	}
	if err := tok.PutData(ctx, hsm.Data{Application: application, Label: p.Label(), Value: []byte(p.TransportLabel()), Private: true, OneWay: true}); err != nil {
		return fail(err)
	}
	return p, nil
}

func spec(p maker.Purpose, lasting bool) hsm.Spec {
	return hsm.Spec{Kind: hsm.PurposeKey, Label: p.Label(), Token: lasting, Unwrapped: lasting, KDF: p.KDF}
}

// records gives the purpose keys that were imported to the end.
func records(ctx context.Context, tok *hsm.Token, realm identity.Realm) ([]maker.Purpose, error) {
	found, err := tok.Data(ctx, application, "")
	if err != nil {
		return nil, err
	}
	var all []maker.Purpose
	for _, d := range found {
		p, err := maker.ParseTransportLabel(realm, string(d.Value))
		if err == nil && (p.Label() != d.Label || !d.OneWay) {
			err = errors.New("it stands under another label, or could be changed")
		}
		if err != nil {
			return nil, fmt.Errorf("record %q: %w: the token was changed by something else; stop using it", d.Label, err)
		}
		all = append(all, p)
	}
	return all, nil
}

// Keys are the device service's keys, opened. Its methods are safe for concurrent use.
// Closing the token ends its session keys.
type Keys struct {
	tok       *hsm.Token
	realm     identity.Realm
	transport *hsm.Key
	purposes  map[keypackage.KeyID]*hsm.Key
}

// Open finds the keys, each by its full template, and reads its attributes back. It uses
// none. Without a purpose key the service can still take devices whose keys it unwraps.
func Open(ctx context.Context, tok *hsm.Token, realm identity.Realm) (*Keys, error) {
	fail := func(err error) (*Keys, error) {
		if errors.Is(err, hsm.ErrNoKey) {
			err = fmt.Errorf("%w: run custodian token --for deviceservice, and custodian purpose import", err)
		}
		return nil, fmt.Errorf("open the device service's keys in token %q: %w", tok.Info().Label, err)
	}
	k := &Keys{tok: tok, realm: realm, purposes: map[keypackage.KeyID]*hsm.Key{}}
	var err error
	if k.transport, err = tok.Find(ctx, transport.Spec(realm)); err != nil {
		return fail(err)
	}
	all, err := records(ctx, tok, realm)
	if err != nil {
		return fail(err)
	}
	for _, p := range all {
		key, err := tok.Find(ctx, spec(p, true))
		if err != nil {
			return fail(err)
		}
		k.purposes[keypackage.KeyID{Name: p.Name, KDF: uint8(p.KDF), Version: p.Version}] = key
	}
	return k, nil
}

// Purposes lists the purpose keys.
func (k *Keys) Purposes() []keypackage.KeyID {
	var all []keypackage.KeyID
	for id := range k.purposes {
		all = append(all, id)
	}
	return all
}

// DeviceKey derives a device's key under context, which must be keypackage.DeviceKeyContext
// of this key and realm. It never leaves the token; Destroy ends it.
func (k *Keys) DeviceKey(ctx context.Context, key keypackage.KeyID, context []byte) (keypackage.MACKey, error) {
	purpose, ok := k.purposes[key]
	if !ok {
		return nil, fmt.Errorf("derive device key: the token has no purpose key %q: run custodian purpose import", key)
	}
	if err := maker.CheckContext(k.realm, key, context); err != nil {
		return nil, fmt.Errorf("derive device key %q: %w", key, err)
	}
	made, err := k.tok.Derive(ctx, purpose, hsm.KDF(key.KDF), context, hsm.Spec{Kind: hsm.ChannelDeviceKey})
	if err != nil {
		return nil, fmt.Errorf("derive device key %q: %w", key, err)
	}
	return deviceKey{made}, nil
}

// Unwrap takes a device's key that was wrapped to the transport key under label.
func (k *Keys) Unwrap(ctx context.Context, label string, blob []byte) (keypackage.MACKey, error) {
	made, err := transport.Unwrap(ctx, k.tok, k.transport, k.realm, label, blob, hsm.Spec{Kind: hsm.ChannelDeviceKey})
	if err != nil {
		return nil, err
	}
	return deviceKey{made}, nil
}

// Check tells whether the token still works, by reading one of its keys.
func (k *Keys) Check(ctx context.Context) error { return k.tok.Check(ctx) }

// deviceKey is a device's key in the service's token, a session object.
type deviceKey struct{ key *hsm.Key }

// MAC gives HMAC-SHA-256 of msg.
func (d deviceKey) MAC(ctx context.Context, msg []byte) ([]byte, error) { return d.key.MAC(ctx, msg) }

// Verify checks a MAC inside the token. A wrong one matches statement.ErrSignature.
func (d deviceKey) Verify(ctx context.Context, msg, mac []byte) error {
	err := d.key.Verify(ctx, msg, mac)
	if errors.Is(err, hsm.ErrMAC) {
		return fmt.Errorf("%w: %w", statement.ErrSignature, err)
	}
	return err
}

// Destroy destroys the key, also when ctx is over. Repeating it does no harm.
func (d deviceKey) Destroy(ctx context.Context) error {
	err := d.key.Destroy(context.WithoutCancel(ctx))
	if errors.Is(err, hsm.ErrKeyGone) || errors.Is(err, hsm.ErrClosed) {
		return nil
	}
	return err
}
