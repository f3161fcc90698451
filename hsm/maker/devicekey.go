package maker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// DeviceKey derives a device's symmetric key from the purpose key that key names, under context, which must be what
// keypackage.DeviceKeyContext gives for this key and realm: anything else is refused, since a purpose key derives
// under nothing but a checked identity. An unknown purpose, version or KDF is an error that names the ceremony.
//
// Each call uses the purpose key, and the caller has committed an audit entry before it. The key lives in the token
// until its Destroy, so keep it while the device is on the line: deriving it for each step would cost a third more
// calls for a device.
func (k *Keys) DeviceKey(ctx context.Context, key keypackage.KeyID, context []byte) (keypackage.MACKey, error) {
	purpose, err := k.purpose(key)
	if err != nil {
		return nil, fmt.Errorf("derive device key: %w", err)
	}
	if err := CheckContext(k.realm, key, context); err != nil {
		return nil, fmt.Errorf("derive device key %q: %w", key, err)
	}
	made, err := k.tok.Derive(ctx, purpose, hsm.KDF(key.KDF), context, hsm.Spec{Kind: hsm.DeviceKey})
	if err != nil {
		return nil, fmt.Errorf("derive device key %q: %w", key, err)
	}
	return &deviceKey{keys: k, key: made}, nil
}

// deviceContext is the wire form of keypackage.DeviceKeyContext.
type deviceContext struct {
	_          struct{} `cbor:",toarray"`
	Label      string
	Version    uint
	Realm      identity.Realm
	KDF        uint8
	Master     uint32
	Purpose    string
	Bits       uint
	Type       identity.Type
	Identity   string
	Generation identity.Generation
	Record     []byte
}

// maxContext bounds an encoded context, in bytes: labels, a purpose and an identity of 32, a record id of 32.
const maxContext = 256

// CheckContext takes a device key's context apart, checks the identity and builds the context anew: the two must be
// equal. Whoever derives device keys asks it first.
func CheckContext(realm identity.Realm, key keypackage.KeyID, context []byte) error {
	var c deviceContext
	if err := detcbor.Unmarshal(context, &c, maxContext); err != nil {
		return fmt.Errorf("context: %w", err)
	}
	id, err := identity.FromValue(c.Type, c.Identity)
	if err != nil {
		return fmt.Errorf("context: %w", err)
	}
	if c.Generation == 0 || len(c.Record) != len(identity.RecordID{}) {
		return fmt.Errorf("context: generation %d with a record id of %d bytes is not possible", c.Generation, len(c.Record))
	}
	want := keypackage.DeviceKeyContext(realm, key, id, c.Generation, identity.RecordID(c.Record))
	if !bytes.Equal(context, want) {
		return fmt.Errorf("context is not that of this key in the %s realm: a fault in the caller", realm)
	}
	return nil
}

// deviceKey is a device's key in the SPP's token, a session object.
type deviceKey struct {
	keys *Keys
	key  *hsm.Key
}

// MAC gives HMAC-SHA-256 of msg.
func (d *deviceKey) MAC(ctx context.Context, msg []byte) ([]byte, error) { return d.key.MAC(ctx, msg) }

// Verify checks a MAC inside the token. A wrong one matches statement.ErrSignature and hsm.ErrMAC.
func (d *deviceKey) Verify(ctx context.Context, msg, mac []byte) error {
	err := d.key.Verify(ctx, msg, mac)
	if errors.Is(err, hsm.ErrMAC) {
		return fmt.Errorf("%w: %w", statement.ErrSignature, err)
	}
	return err
}

// Destroy destroys the key, also when ctx is over. Repeating it does no harm.
func (d *deviceKey) Destroy(ctx context.Context) error {
	return destroy(context.WithoutCancel(ctx), d.key)
}

// releaseTime bounds the destruction of a session key whose caller may be gone: longer than the wait for a session.
const releaseTime = 10 * time.Second

// destroy destroys a session key within a bounded time. One that is gone already, or whose token was closed, needs
// no more.
func destroy(ctx context.Context, key *hsm.Key) error {
	ctx, cancel := context.WithTimeout(ctx, releaseTime)
	defer cancel()
	err := key.Destroy(ctx)
	if errors.Is(err, hsm.ErrKeyGone) || errors.Is(err, hsm.ErrClosed) {
		return nil
	}
	return err
}
