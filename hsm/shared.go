package hsm

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/subtle"
	"fmt"

	"github.com/miekg/pkcs11"
)

// sharedSize is the length of an ECDH result on P-256: the x coordinate.
const sharedSize = 32

// SharedSecret gives the result of ECDH between a [ResidentAgreementKey] and the peer's
// point, 32 bytes, in this process's memory: what HPKE (RFC 9180 section 4.1) goes on
// from. It is one message's secret; the private key stays in the token. The caller
// clears it. errors.Is(err, [ErrData]) when the point is at fault.
func (k *Key) SharedSecret(ctx context.Context, peer []byte) ([]byte, error) {
	if k.spec.Kind != ResidentAgreementKey {
		return nil, fmt.Errorf("hsm: agree with %s: only a device's own agreement key gives its results away", k)
	}
	return k.shared(ctx, peer)
}

// sharedTemplate is the one readable secret there is: an object that lives for two calls,
// and no kind of key.
func sharedTemplate() []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, sharedSize),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true),
	}
}

func (k *Key) shared(ctx context.Context, peer []byte) ([]byte, error) {
	if err := checkPoint(peer); err != nil {
		return nil, fmt.Errorf("hsm: agree with %s: %w", k, err)
	}
	m := pkcs11.NewMechanism(pkcs11.CKM_ECDH1_DERIVE, pkcs11.NewECDH1DeriveParams(pkcs11.CKD_NULL, nil, bytes.Clone(peer)))
	var secret []byte
	err := k.use(ctx, "agree with "+k.String(), func(s *session, own pkcs11.ObjectHandle) error {
		h, err := k.token.lib.deriveKey(s.handle, m, own, sharedTemplate())
		if err != nil {
			return err
		}
		v, err := k.token.lib.attributes(s.handle, h, pkcs11.CKA_VALUE)
		if err = k.token.discard(s, err, false, h); err != nil {
			return err
		}
		if len(v[0]) != sharedSize {
			return fmt.Errorf("the token gave %d bytes instead of %d", len(v[0]), sharedSize)
		}
		secret = v[0]
		return nil
	})
	return secret, err
}

// matchesAgreement checks that an agreement key belongs to public, by agreeing with a pair
// made for that and forgotten: its secret is nobody's.
func (k *Key) matchesAgreement(ctx context.Context, public []byte) error {
	point, err := ecdh.P256().NewPublicKey(public)
	if err != nil {
		return err
	}
	other, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	want, err := other.ECDH(point)
	if err != nil {
		return err
	}
	got, err := k.shared(ctx, other.PublicKey().Bytes())
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(got, want) != 1 {
		return fmt.Errorf("hsm: match %s with a public key: it belongs to another: %w", k, ErrData)
	}
	return nil
}
