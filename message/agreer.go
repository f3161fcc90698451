package message

import (
	"context"
	"crypto/ecdh"
	"errors"
	"fmt"
)

// Agreer is a recipient's private key, P-256, in a token or not. A device's
// key in its chip is one.
type Agreer interface {
	// Agree gives the x coordinate of ECDH with the peer's point (65 bytes,
	// uncompressed, checked to be on the curve): 32 bytes, which are Open's to
	// clear.
	Agree(ctx context.Context, peer []byte) ([]byte, error)
}

// exchanger lends an Agreer to crypto/hpke for one message.
type exchanger struct {
	ctx    context.Context // of the one Open that it lives in
	key    Agreer
	public *ecdh.PublicKey
	err    error  // of Agree
	secret []byte // what Agree gave, until clear
}

// clear wipes the shared secret. crypto/hpke has derived from it by then; what that
// keeps is its own.
func (x *exchanger) clear() { clear(x.secret) }

// sharedSize is the length of an x coordinate of P-256, in bytes.
const sharedSize = 32

func newExchanger(ctx context.Context, to Recipient) (*exchanger, error) {
	if to.Key == nil {
		return nil, errors.New("there is no key to open it with")
	}
	public, err := ecdh.P256().NewPublicKey(to.Certificate.Public.Point())
	if err != nil {
		return nil, err
	}
	return &exchanger{ctx: ctx, key: to.Key, public: public}, nil
}

// PublicKey is ecdh.KeyExchanger's: DHKEM mixes it into the secret
// (kem_context, RFC 9180 §4.1).
func (x *exchanger) PublicKey() *ecdh.PublicKey { return x.public }

// Curve is ecdh.KeyExchanger's.
func (x *exchanger) Curve() ecdh.Curve { return ecdh.P256() }

// ECDH is ecdh.KeyExchanger's.
func (x *exchanger) ECDH(peer *ecdh.PublicKey) ([]byte, error) {
	secret, err := x.key.Agree(x.ctx, peer.Bytes())
	x.secret = secret
	if err == nil && len(secret) != sharedSize {
		err = fmt.Errorf("the key gave a secret of %d bytes, %d are expected", len(secret), sharedSize)
	}
	if err != nil {
		x.err = fmt.Errorf("agree: %w", err)
		return nil, x.err
	}
	return secret, nil
}
