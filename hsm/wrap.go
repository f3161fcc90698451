package hsm

import (
	"context"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

const (
	// wrapOverhead is what AES Key Wrap adds (RFC 3394).
	wrapOverhead = 8
	// A P-256 private key is wrapped as PKCS #8. SoftHSM's form gives 80 bytes; other
	// modules add the public key.
	minWrappedPair = 56
	maxWrappedPair = 256
)

// Wrap wraps key under kek with AES Key Wrap (RFC 3394): 32 bytes give 40, a P-256
// private key gives 80 in SoftHSM.
func (t *Token) Wrap(ctx context.Context, kek, key *Key) ([]byte, error) {
	if err := errors.Join(kek.of(t), key.of(t)); err != nil {
		return nil, fmt.Errorf("hsm: wrap: %w", err)
	}
	var blob []byte
	err := t.with(ctx, fmt.Sprintf("wrap %s under %s", key, kek), func(s *session) (err error) {
		under, err := kek.object(s)
		if err != nil {
			return err
		}
		what, err := key.object(s)
		if err != nil {
			return err
		}
		blob, err = t.lib.wrapKey(s.handle, pkcs11.CKM_AES_KEY_WRAP, under, what)
		return noted(err, kek, key)
	})
	return blob, err
}

// Unwrap unwraps blob under kek as the key of s; the attributes come from s and never
// from the blob. errors.Is(err, [ErrData]) when the blob is of the wrong size or isn't
// kek's. For a token object the key is unwrapped as a session object, then copied into
// the token.
func (t *Token) Unwrap(ctx context.Context, kek *Key, blob []byte, s Spec) (*Key, error) {
	fail := func(err error) (*Key, error) {
		return nil, fmt.Errorf("hsm: unwrap %s: %w", s.Kind, err)
	}
	p, err := t.plan(s, unwrapped)
	if err != nil {
		return fail(err)
	}
	if err := kek.of(t); err != nil {
		return fail(err)
	}
	if err := p.checkWrapped(len(blob)); err != nil {
		return fail(err)
	}
	return t.make(ctx, fmt.Sprintf("unwrap %s under %s", s.Kind, kek), s, p, func(se *session, place []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
		under, err := kek.object(se)
		if err != nil {
			return 0, err
		}
		var h pkcs11.ObjectHandle
		err = twice(func() (err error) {
			h, err = t.lib.unwrapKey(se.handle, pkcs11.CKM_AES_KEY_WRAP, under, blob, joined(p.unwrap, place...))
			return err
		})
		return h, noted(t.blame(se, err, kek), kek)
	})
}

// checkWrapped refuses a blob whose size isn't that of the kind: SoftHSM would make a
// GENERIC_SECRET of any blob, a private key's too.
func (p *plan) checkWrapped(n int) error {
	if p.class == pkcs11.CKO_SECRET_KEY {
		if want := int(p.size) + wrapOverhead; n != want {
			return fmt.Errorf("the blob has %d bytes, and %d are due: %w", n, want, ErrData)
		}
		return nil
	}
	if n%8 != 0 || n < minWrappedPair || n > maxWrappedPair {
		return fmt.Errorf("the blob has %d bytes, and a multiple of 8 from %d to %d is due: %w", n, minWrappedPair, maxWrappedPair, ErrData)
	}
	return nil
}
