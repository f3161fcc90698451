package hsm

import (
	"context"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// Find looks up the token key of s's kind and label; s.Token is taken as set. Exactly
// one must be there; its attributes are read back and compared with the kind's
// template. [ErrNoKey] when none is. A key that a crash left half written, or that has
// other attributes than its kind, is refused and named. Keep the key: finding costs a
// dozen calls.
func (t *Token) Find(ctx context.Context, s Spec) (*Key, error) {
	s.Token = true
	p, err := t.plan(s, 0)
	if err != nil {
		return nil, fmt.Errorf("hsm: find: %w", err)
	}
	var k *Key
	err = t.with(ctx, fmt.Sprintf("find %s %q", s.Kind, s.Label), func(se *session) (err error) {
		k, err = t.findKey(se, s, p)
		return err
	})
	return k, err
}

func (t *Token) findKey(s *session, spec Spec, p *plan) (*Key, error) {
	found, err := t.labelled(s, p.class, spec.Label)
	if err != nil {
		return nil, err
	}
	switch len(found) {
	case 0:
		return nil, ErrNoKey
	case 1:
	default:
		return nil, fmt.Errorf("%d keys have this label, and one may: run a sweep, then decide which is the right one", len(found))
	}
	h := found[0]
	k := t.made(s, spec, p, h)
	whole := spec.Unwrapped
	if !whole {
		if whole, err = t.whole(s, p.class, h); err != nil {
			return nil, err
		}
	}
	if !whole {
		return nil, errHalfWritten
	}
	// Only a kind that is always generated here has this past; a test build also
	// imports such keys.
	local := p.origins == generated && !imports
	if err := t.readBack(s, h, p.lasting(spec, local)); err != nil {
		return nil, err
	}
	if p.class == pkcs11.CKO_PRIVATE_KEY {
		if err := t.findPublic(s, k); err != nil {
			return nil, err
		}
	}
	t.health.remember(h)
	return k, nil
}

var errHalfWritten = errors.New("it was left half written by a crash and holds no key: run a sweep, then make it anew")

func (t *Token) findPublic(s *session, k *Key) error {
	found, err := t.find(s, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY),
		pairID(k.spec.Label),
	})
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return fmt.Errorf("%d public keys go with it, and one must: run a sweep", len(found))
	}
	k.setPublic(found[0])
	k.public, err = t.readPoint(s, k.plan, found[0])
	return err
}

// setPublic adds the handle of the public half, before anybody else knows the key.
func (k *Key) setPublic(pub pkcs11.ObjectHandle) {
	at := *k.at.Load()
	at.pub = pub
	k.at.Store(&at)
}

// find lists the token's objects that match. Nothing found is believed only of a token
// that answers and a session that is logged in: private objects of a login that was lost
// look as if there were none, as do all objects when SoftHSM's directory has vanished, and
// from a lock or a master key that seems not to be there wrong things would follow.
func (t *Token) find(s *session, match []*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	found, err := t.lib.find(s.handle, match)
	if err != nil || len(found) > 0 {
		return found, err
	}
	if err := t.lib.glance(t.slot.id); err != nil {
		return nil, err
	}
	return nil, t.lib.loggedIn(s.handle)
}

// whole tells whether an object holds a value, from its attributes and without using
// it. SoftHSM writes a generated key in two steps: first the template, then the value
// together with CKA_LOCAL, the check value, and for pairs the curve and point. A kill
// between them leaves an object that is found but has no key in it.
func (t *Token) whole(s *session, class uint, h pkcs11.ObjectHandle) (bool, error) {
	var evidence uint
	switch class {
	case pkcs11.CKO_SECRET_KEY:
		evidence = pkcs11.CKA_CHECK_VALUE
	case pkcs11.CKO_PRIVATE_KEY:
		evidence = pkcs11.CKA_EC_PARAMS
	case pkcs11.CKO_PUBLIC_KEY:
		evidence = pkcs11.CKA_EC_POINT
	default:
		return true, nil
	}
	local, err := t.lib.attributes(s.handle, h, pkcs11.CKA_LOCAL)
	if err != nil && Classify(err) != Stop {
		return false, err
	}
	if err == nil && len(local[0]) == 1 && local[0][0] != 0 {
		return true, nil
	}
	// A key from elsewhere isn't local either, but has its evidence. A module that
	// keeps no check values can't be judged by them.
	v, err := t.lib.attributes(s.handle, h, evidence)
	switch {
	case err == nil:
		return len(v[0]) > 0, nil
	case codeOf(err) == pkcs11.CKR_ATTRIBUTE_TYPE_INVALID:
		return true, nil
	default:
		return false, err
	}
}
