package hsm

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/miekg/pkcs11"
)

// Generate makes a key or key pair of s's kind inside the token. A label in use is
// refused, whatever uses it. Before it returns a token key it has read its attributes
// back, compared each with the template, and used the key once; a key that fails is
// destroyed. A pair comes back as its private key, with Public filled in.
//
// A crash while it runs may leave a token object half written, or the public half of a
// pair alone: [Token.Find] refuses such a key by name, [Token.Sweep] removes it.
func (t *Token) Generate(ctx context.Context, s Spec) (*Key, error) {
	p, err := t.plan(s, generated)
	if err != nil {
		return nil, fmt.Errorf("hsm: generate: %w", err)
	}
	var k *Key
	err = t.with(ctx, fmt.Sprintf("generate %s %q", s.Kind, s.Label), func(se *session) (err error) {
		if s.Token {
			if err := t.unused(se, s.Label); err != nil {
				return err
			}
		}
		k, err = t.generate(se, s, p)
		return err
	})
	if err != nil {
		return nil, err
	}
	if !s.Token {
		return k, nil
	}
	if err := k.try(ctx); err != nil {
		return nil, fmt.Errorf("hsm: generate %s: it was made but doesn't work, and is destroyed: %w", k, k.undo(ctx, err))
	}
	return k, nil
}

// undo destroys a key just made and gives err with what went wrong in that.
func (k *Key) undo(ctx context.Context, err error) error {
	if e := k.Destroy(context.WithoutCancel(ctx)); e != nil {
		return fmt.Errorf("%w (and destroying it: %w; run a sweep)", err, e)
	}
	return err
}

// unused refuses a label that any object of the token has.
func (t *Token) unused(s *session, label string) error {
	found, err := t.find(s, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
	})
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return fmt.Errorf("the label is in use by %d objects: choose another, or run a sweep if a crash left them", len(found))
	}
	return nil
}

func (t *Token) generate(s *session, spec Spec, p *plan) (*Key, error) {
	place := spec.place()
	var k *Key
	var priv, pub pkcs11.ObjectHandle
	var err error
	if p.class == pkcs11.CKO_SECRET_KEY {
		if priv, err = t.lib.generateKey(s.handle, p.generator(), joined(p.generate, place...)); err != nil {
			return nil, err
		}
		k = t.made(s, spec, p, priv)
	} else {
		if spec.Token {
			place = append(place, pairID(spec.Label))
		}
		if pub, priv, err = t.lib.generatePair(s.handle, p.generator(), joined(p.public, place...), joined(p.generate, place...)); err != nil {
			return nil, err
		}
		k = t.made(s, spec, p, priv)
		k.setPublic(pub)
		if k.public, err = t.readPoint(s, p, pub); err != nil {
			return nil, t.discard(s, err, spec.Token, priv, pub)
		}
		if !spec.Token {
			// The public object has told what it had to.
			if err := t.lib.destroyObject(s.handle, pub, false); err != nil {
				return nil, t.discard(s, err, spec.Token, priv)
			}
			pub = 0
			k.setPublic(0)
		}
	}
	if err := t.checkGenerated(s, spec, p, priv); err != nil {
		return nil, t.discard(s, err, spec.Token, priv, pub)
	}
	return k, nil
}

// checkGenerated reads the new key back, and makes sure that its label is still its
// own: another process may have used it between the check and the making.
func (t *Token) checkGenerated(s *session, spec Spec, p *plan, h pkcs11.ObjectHandle) error {
	if !spec.Token {
		return t.readBackOnce(s, p, h)
	}
	if err := t.readBack(s, h, p.lasting(spec, true)); err != nil {
		return err
	}
	found, err := t.labelled(s, p.class, spec.Label)
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return fmt.Errorf("%d keys have this label now: another process made one at the same time", len(found))
	}
	return nil
}

// pairID ties the halves of a pair together, as CKA_ID; crypto11 looks for it.
func pairID(label string) *pkcs11.Attribute {
	sum := sha256.Sum256([]byte(label))
	return pkcs11.NewAttribute(pkcs11.CKA_ID, sum[:16])
}

func (t *Token) readPoint(s *session, p *plan, pub pkcs11.ObjectHandle) ([]byte, error) {
	v, err := t.lib.point(s.handle, pub)
	if err != nil {
		return nil, err
	}
	return decodePoint(p.keyType, v)
}

func (t *Token) labelled(s *session, class uint, label string) ([]pkcs11.ObjectHandle, error) {
	return t.find(s, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, class),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
	})
}
