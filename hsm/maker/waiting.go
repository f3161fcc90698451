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

// madeKinds is what a device's key of each use is in the SPP's token.
var madeKinds = map[keypackage.Use]hsm.Kind{
	keypackage.UseMAC:       hsm.DeviceKey,
	keypackage.UseCipher:    hsm.DeviceCipherKey,
	keypackage.UseSignature: hsm.DeviceSigningKey,
	keypackage.UseAgreement: hsm.DeviceAgreementKey,
}

// Make makes a device's key, which is a function of nothing, and gives it wrapped under the pool wrap key of its
// class. In the token it was a session object, which is destroyed: a key lives there only while it is used. A crash
// leaves nothing.
func (k *Keys) Make(ctx context.Context, alg keypackage.Algorithm) (keypackage.WaitingKey, error) {
	kind, ok := madeKinds[alg.Use()]
	if !ok {
		return keypackage.WaitingKey{}, fmt.Errorf("make a device's key: the token makes none of %s", alg)
	}
	made, err := k.tok.Generate(ctx, hsm.Spec{Kind: kind})
	if err != nil {
		return keypackage.WaitingKey{}, fmt.Errorf("make a device's key: %w", err)
	}
	w, err := k.park(ctx, alg, made, made.Public())
	if err = errors.Join(err, destroy(context.WithoutCancel(ctx), made)); err != nil {
		return keypackage.WaitingKey{}, fmt.Errorf("make a device's key: %w", err)
	}
	return w, nil
}

// park wraps a key to wait.
func (k *Keys) park(ctx context.Context, alg keypackage.Algorithm, key *hsm.Key, public []byte) (keypackage.WaitingKey, error) {
	blob, err := k.wrap(ctx, k.poolWrap[alg.Pair()], key, keypackage.Entry{Algorithm: alg}.WrappedSize())
	return keypackage.WaitingKey{Algorithm: alg, Wrapped: blob, Public: public}, err
}

// Fetch unwraps a waiting key into a session object of the token, to be wrapped to its device. The caller destroys it.
// One for MACs is a keypackage.MACKey. That it is the one of w.Public, whoever sealed it has made sure of;
// the device looks again.
func (k *Keys) Fetch(ctx context.Context, w keypackage.WaitingKey) (keypackage.TransitKey, error) {
	kind, ok := madeKinds[w.Algorithm.Use()]
	if !ok {
		return nil, fmt.Errorf("fetch a device's key: there are none of %s", w.Algorithm)
	}
	key, err := k.tok.Unwrap(ctx, k.poolUnwrap[w.Algorithm.Pair()], w.Wrapped, hsm.Spec{Kind: kind})
	if err != nil {
		return nil, fmt.Errorf("fetch a device's key of %s: %w", w.Algorithm, err)
	}
	if w.Algorithm.Use() == keypackage.UseMAC {
		return &deviceKey{keys: k, key: key}, nil
	}
	return &transitKey{keys: k, algorithm: w.Algorithm, key: key}, nil
}

// Share wraps a waiting symmetric key once more, to another HSM's transport key (package transport): the device
// service's, for devices whose key nobody can derive. What leaves is as good as the device's key for whoever has that HSM,
// so to is a key that two people have compared.
func (k *Keys) Share(ctx context.Context, w keypackage.WaitingKey, to statement.PublicKey, label string) ([]byte, error) {
	if w.Algorithm.Use() != keypackage.UseMAC {
		return nil, fmt.Errorf("share a device's key: one of %s is of no use to a device service", w.Algorithm)
	}
	key, err := k.tok.Unwrap(ctx, k.poolUnwrap[false], w.Wrapped, hsm.Spec{Kind: hsm.DeviceKey})
	if err != nil {
		return nil, fmt.Errorf("share a device's key: %w", err)
	}
	blob, err := transport.Wrap(ctx, k.tok, k.realm, to, label, key)
	if err = errors.Join(err, destroy(context.WithoutCancel(ctx), key)); err != nil {
		return nil, fmt.Errorf("share a device's key: %w", err)
	}
	return blob, nil
}

// CheckValue gives the check value of a waiting symmetric key: HMAC-SHA-256 of msg, which is keypackage.CheckMessage.
// A key of AES type can't MAC, so it is unwrapped once more, as one that can.
func (k *Keys) CheckValue(ctx context.Context, w keypackage.WaitingKey, msg []byte) ([]byte, error) {
	if !w.Algorithm.Symmetric() {
		return nil, fmt.Errorf("check value: a key of %s has none, its public half vouches for it", w.Algorithm)
	}
	twin, err := k.tok.Unwrap(ctx, k.poolUnwrap[false], w.Wrapped, hsm.Spec{Kind: hsm.CheckKey})
	if err != nil {
		return nil, fmt.Errorf("check value: %w", err)
	}
	mac, err := twin.MAC(ctx, msg)
	if err = errors.Join(err, destroy(context.WithoutCancel(ctx), twin)); err != nil {
		return nil, fmt.Errorf("check value: %w", err)
	}
	return mac, nil
}

// transitKey is a device's key in the SPP's token that can't MAC: a pair, or an AES key.
type transitKey struct {
	keys      *Keys
	algorithm keypackage.Algorithm
	key       *hsm.Key
}

// Destroy destroys the key, also when ctx is over. Repeating it does no harm.
func (t *transitKey) Destroy(ctx context.Context) error {
	return destroy(context.WithoutCancel(ctx), t.key)
}
