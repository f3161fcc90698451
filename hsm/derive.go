package hsm

import (
	"context"
	"fmt"

	"github.com/miekg/pkcs11"
)

// Derive makes the key of s from base by kdf over context, a deterministic encoding
// that says all about the key; the caller builds it from checked values. For a token
// object (s.Token) the key is derived as a session object, then copied into the token
// with its label, unchangeable from then on. A crash leaves nothing before the copy and
// the whole key after it.
//
// The context isn't secret and is bounded to 4096 bytes.
func (t *Token) Derive(ctx context.Context, base *Key, kdf KDF, context []byte, s Spec) (*Key, error) {
	fail := func(err error) (*Key, error) {
		return nil, fmt.Errorf("hsm: derive %s: %w", s.Kind, err)
	}
	p, err := t.plan(s, derived)
	if err != nil {
		return fail(err)
	}
	if err := base.of(t); err != nil {
		return fail(err)
	}
	if err := base.derives(kdf, s); err != nil {
		return fail(err)
	}
	if len(context) == 0 || len(context) > maxContext {
		return fail(fmt.Errorf("a context of %d bytes: give 1 to %d", len(context), maxContext))
	}
	return t.make(ctx, fmt.Sprintf("derive %s from %s", s.Kind, base), s, p, func(se *session, place []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
		from, err := base.object(se)
		if err != nil {
			return 0, err
		}
		h, err := t.deriveIn(se, base, from, kdf, context, p, place)
		return h, noted(err, base)
	})
}

// derives refuses a KDF that isn't the base key's.
func (k *Key) derives(kdf KDF, s Spec) error {
	own := KDF1
	if k.plan.backend != cbcBackend {
		own = KDF2
	}
	if kdf != own {
		return fmt.Errorf("by %s from %s, which serves %s", kdf, k, own)
	}
	if child := max(s.KDF, KDF1); (s.Kind == PurposeKey || s.Kind == PurposeTwin) && child != own {
		return fmt.Errorf("a purpose key for %s from %s, which serves %s: one master version has one KDF", child, k, own)
	}
	return nil
}

// make runs f, which makes a session object, checks what it made, and for a token
// object copies it into the token and destroys the session object.
func (t *Token) make(ctx context.Context, act string, spec Spec, p *plan, f func(*session, []*pkcs11.Attribute) (pkcs11.ObjectHandle, error)) (*Key, error) {
	var k *Key
	err := t.with(ctx, act, func(s *session) error {
		if spec.Token {
			if err := t.unused(s, spec.Label); err != nil {
				return err
			}
		}
		inSession := spec
		inSession.Token = false
		h, err := f(s, inSession.place())
		if err != nil {
			return err
		}
		if err := t.readBackOnce(s, p, h); err != nil {
			return t.discard(s, err, false, h)
		}
		if !spec.Token {
			k = t.made(s, spec, p, h)
			return nil
		}
		kept, err := t.keep(s, h, spec, p)
		// The session object has served, also when the copy failed.
		if err = t.discard(s, err, false, h); err != nil {
			return err
		}
		k = t.made(s, spec, p, kept)
		return nil
	})
	return k, err
}

// keep copies a session object into the token, with its label and from now on
// unchangeable, reads it back and makes sure that the label is its own. A crash inside
// C_CopyObject leaves nothing or the whole key: the copy is one transaction.
func (t *Token) keep(s *session, h pkcs11.ObjectHandle, spec Spec, p *plan, more ...*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	attributes := append(spec.place(), more...)
	if p.is(pkcs11.CKA_MODIFIABLE, false) {
		attributes = append(attributes, pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false))
	}
	kept, err := t.lib.copyObject(s.handle, h, attributes)
	if err != nil {
		return 0, fmt.Errorf("copy it into the token: %w", err)
	}
	if err := t.readBack(s, kept, p.lasting(spec, false)); err != nil {
		return 0, t.discard(s, err, true, kept)
	}
	found, err := t.labelled(s, p.class, spec.Label)
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("%d keys have this label now: another process made one at the same time", len(found))
	}
	if err != nil {
		return 0, t.discard(s, err, true, kept)
	}
	return kept, nil
}
