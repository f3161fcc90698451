package maker

import (
	"context"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/transport"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// TransportKey gives the public half of the key that device keys from outside are wrapped to (package transport).
func (k *Keys) TransportKey() (statement.PublicKey, error) {
	return statement.ParsePoint(k.transport.Public())
}

// Import takes a device's key from outside, wrapped to TransportKey under label, and gives it wrapped to wait. Of a
// pair, public is its public half, and the key is compared with it. hsm.ErrData and transport.ErrOther say that the
// blob is at fault.
func (k *Keys) Import(ctx context.Context, alg keypackage.Algorithm, public []byte, label string, blob []byte) (keypackage.WaitingKey, error) {
	fail := func(err error) (keypackage.WaitingKey, error) {
		return keypackage.WaitingKey{}, fmt.Errorf("import a device's key: %w", err)
	}
	kind, ok := madeKinds[alg.Use()]
	if !ok {
		return fail(fmt.Errorf("there are none of %s", alg))
	}
	if alg.Pair() != (len(public) > 0) {
		return fail(fmt.Errorf("a key of %s with a public half of %d bytes", alg, len(public)))
	}
	key, err := transport.Unwrap(ctx, k.tok, k.transport, k.realm, label, blob, hsm.Spec{Kind: kind})
	if err != nil {
		return fail(err)
	}
	if alg.Pair() {
		err = key.Matches(ctx, public)
	}
	var w keypackage.WaitingKey
	if err == nil {
		w, err = k.park(ctx, alg, key, public)
	}
	if err = errors.Join(err, destroy(context.WithoutCancel(ctx), key)); err != nil {
		return fail(err)
	}
	return w, nil
}

// ImportSecret takes a secret that is no key from outside, encrypted to TransportKey under label. It comes out of the
// token in clear: the caller seals it at once (SealSecret) and clears it. hsm.ErrData and transport.ErrOther say that
// the blob is at fault.
func (k *Keys) ImportSecret(ctx context.Context, label string, blob []byte) ([]byte, error) {
	secret, err := transport.Open(ctx, k.tok, k.transport, k.realm, label, blob)
	if err != nil {
		return nil, fmt.Errorf("import a device's secret: %w", err)
	}
	return secret, nil
}
