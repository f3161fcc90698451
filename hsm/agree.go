package hsm

import (
	"bytes"
	"context"
	"fmt"

	"github.com/miekg/pkcs11"
)

// Agree derives s, an [AgreedKey], by ECDH between own and the peer's point. The point
// must be in canonical form, on P-256 and not own's: the token isn't asked otherwise,
// as it takes compressed points too and answers a point off the curve like a broken
// device. errors.Is(err, [ErrData]) when the point is at fault.
//
// The result of ECDH is no key yet (CKD_NULL: SoftHSM knows no other): an AgreedKey
// can only be derived from, by KDF 1.
func (t *Token) Agree(ctx context.Context, own *Key, peer []byte, s Spec) (*Key, error) {
	fail := func(err error) (*Key, error) {
		return nil, fmt.Errorf("hsm: agree on %s: %w", s.Kind, err)
	}
	p, err := t.plan(s, agreed)
	if err != nil {
		return fail(err)
	}
	if err := own.of(t); err != nil {
		return fail(err)
	}
	if own.spec.Kind != EphemeralKey && own.spec.Kind != TransportKey {
		return fail(fmt.Errorf("with %s: only an ephemeral key and a transport key agree on keys", own))
	}
	if err := checkPoint(peer); err != nil {
		return fail(err)
	}
	if bytes.Equal(peer, own.public) {
		return fail(fmt.Errorf("the peer's point is our own: a reflected message: %w", ErrData))
	}
	m := pkcs11.NewMechanism(pkcs11.CKM_ECDH1_DERIVE, pkcs11.NewECDH1DeriveParams(pkcs11.CKD_NULL, nil, bytes.Clone(peer)))
	return t.make(ctx, "agree on "+s.Kind.String(), s, p, func(se *session, place []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
		from, err := own.object(se)
		if err != nil {
			return 0, err
		}
		// The point has been checked: whatever goes wrong here isn't its fault.
		return t.lib.deriveKey(se.handle, m, from, joined(p.derive, place...))
	})
}
