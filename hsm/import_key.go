package hsm

import (
	"context"
	"crypto/ecdh"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// importKey makes a key of s's kind from known bytes: 32 of a secret key, or a P-256
// private key's scalar. Only test builds call it: a key whose bytes are known is none.
func (t *Token) importKey(ctx context.Context, s Spec, value []byte) (*Key, error) {
	p, err := t.plan(s, 0)
	if err != nil {
		return nil, fmt.Errorf("hsm: import: %w", err)
	}
	if len(value) != derivedSize || p.keyType == ckkEdwards {
		return nil, fmt.Errorf("hsm: import %s of %d bytes: only 32-byte secret keys and P-256 scalars", s.Kind, len(value))
	}
	own := joined(p.create, pkcs11.NewAttribute(pkcs11.CKA_VALUE, value))
	var public []byte
	if p.class == pkcs11.CKO_PRIVATE_KEY {
		private, err := ecdh.P256().NewPrivateKey(value)
		if err != nil {
			return nil, errors.New("hsm: import: not a P-256 scalar")
		}
		public = private.PublicKey().Bytes()
		own = append(own, pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, p256Params))
	}
	if p.is(pkcs11.CKA_MODIFIABLE, false) && s.Token {
		own = append(own, pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false))
	}
	var k *Key
	err = t.with(ctx, "import "+s.Kind.String(), func(se *session) error {
		place := s.place()
		if s.Token {
			if err := t.unused(se, s.Label); err != nil {
				return err
			}
			if public != nil {
				place = append(place, pairID(s.Label))
			}
		}
		h, err := t.lib.createObject(se.handle, joined(own, place...))
		if err != nil {
			return err
		}
		k = t.made(se, s, p, h)
		k.public = public
		if public == nil || !s.Token {
			return nil
		}
		point := append([]byte{0x04, pointSize}, public...) // DER OCTET STRING
		pub, err := t.lib.createObject(se.handle, joined(p.public, append(place, pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, point))...))
		if err == nil {
			k.setPublic(pub)
		}
		return err
	})
	return k, err
}
