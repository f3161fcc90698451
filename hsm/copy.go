package hsm

import (
	"context"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// Copy copies k as s says: of the same kind, a token object into a session or the
// other way, or of the kind's twin (a [PoolUnwrapKey] is a copy of a [PoolWrapKey] with
// the other usage). A copy keeps CKA_ALLOWED_MECHANISMS, whatever is asked. Kinds that
// are unchangeable in the token can't be copied out of it.
func (t *Token) Copy(ctx context.Context, k *Key, s Spec) (*Key, error) {
	p, changes, err := t.copyPlan(k, s)
	if err != nil {
		return nil, fmt.Errorf("hsm: copy %s: %w", k, err)
	}
	var c *Key
	err = t.with(ctx, "copy "+k.String(), func(se *session) error {
		from, err := k.object(se)
		if err != nil {
			return err
		}
		if !s.Token {
			c, err = t.copySession(se, k, from, s, p, changes)
			return noted(err, k)
		}
		if err := t.unused(se, s.Label); err != nil {
			return err
		}
		h, err := t.keep(se, from, s, p, changes...)
		if err != nil {
			return noted(err, k)
		}
		c = t.made(se, s, p, h)
		return nil
	})
	return c, err
}

// Hot copies a token key into a session that serves no other operation, so that the
// copy lives as long as t. SoftHSM opens, locks and reads a token key's file at every
// use: a hot AES key encrypts 2.5 times as fast.
func (t *Token) Hot(ctx context.Context, k *Key) (*Key, error) {
	if k == nil {
		return nil, errors.New("hsm: copy: no key given")
	}
	s := k.spec
	s.Token = false
	p, changes, err := t.copyPlan(k, s)
	if err != nil {
		return nil, fmt.Errorf("hsm: copy %s: %w", k, err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("hsm: copy %s: %w", k, err)
	}
	var c *Key
	err = t.anchored(func(se *session) error {
		from, err := k.object(se)
		if err != nil {
			return err
		}
		c, err = t.copySession(se, k, from, s, p, changes)
		return noted(err, k)
	})
	if err != nil {
		return nil, fmt.Errorf("hsm: copy %s in token %q: %w", k, t.info.Label, err)
	}
	return c, nil
}

func (t *Token) copySession(s *session, k *Key, from pkcs11.ObjectHandle, spec Spec, p *plan, changes []*pkcs11.Attribute) (*Key, error) {
	h, err := t.lib.copyObject(s.handle, from, append(spec.place(), changes...))
	if err != nil {
		return nil, err
	}
	if err := t.readBackOnce(s, p, h); err != nil {
		return nil, t.discard(s, err, false, h)
	}
	c := t.made(s, spec, p, h)
	c.public = k.public
	return c, nil
}

// copyPlan checks that k may be copied as s, and tells which usages change.
func (t *Token) copyPlan(k *Key, s Spec) (*plan, []*pkcs11.Attribute, error) {
	if err := k.of(t); err != nil {
		return nil, nil, err
	}
	p, err := t.plan(s, 0)
	if err != nil {
		return nil, nil, err
	}
	if k.spec.Token && k.plan.is(pkcs11.CKA_MODIFIABLE, false) {
		return nil, nil, fmt.Errorf("a %s in the token is unchangeable, so no copy of it can differ in anything", k.spec.Kind)
	}
	if s.Token && p.class != pkcs11.CKO_SECRET_KEY {
		return nil, nil, errors.New("only secret keys are copied into the token")
	}
	if p.kindKey == k.plan.kindKey {
		return p, nil, nil
	}
	if p.twin != k.spec.Kind {
		return nil, nil, fmt.Errorf("as a %s: only its twin is made by copying", s.Kind)
	}
	var changes []*pkcs11.Attribute
	for _, u := range usages[p.class] {
		if p.uses(u) != k.plan.uses(u) {
			changes = append(changes, pkcs11.NewAttribute(u, p.uses(u)))
		}
	}
	return p, changes, nil
}
