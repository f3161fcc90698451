package maker

import (
	"context"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/keypackage"
)

// purpose makes a purpose key, checks that it is the one its master key gives, and records it. It is derived as a
// session object and copied into the token (hsm.Token.Derive), which is the only way to a derived token key that
// can't be modified. A crash before the copy leaves nothing; inside it half an object, which the next run's sweep
// removes; after it a key without record, which the next run checks against its master key.
func (c *creation) purpose(ctx context.Context, master *hsm.Key, m Master, purpose string) error {
	r := record{Version: recordVersion, Realm: c.plan.Realm, Master: m.Version, KDF: m.KDF, Purpose: purpose}
	spec := hsm.Spec{Kind: hsm.PurposeKey, Label: r.label(), Token: true, KDF: m.KDF}
	key, err := c.tok.Find(ctx, spec)
	missing := errors.Is(err, hsm.ErrNoKey)
	if err != nil && !missing {
		return err
	}
	if _, recorded := c.records[r.label()]; recorded && !missing {
		return nil
	}
	// The master key is used once or twice now: one entry in the audit log for both.
	if err := c.plan.Before(ctx, Act{Key: master.Label(), What: fmt.Sprintf("derive purpose key %s", r.label())}); err != nil {
		return fmt.Errorf("derive %q: %w", r.label(), err)
	}
	context := keypackage.PurposeContext(c.plan.Realm, uint8(m.KDF), m.Version, purpose)
	if missing {
		if key, err = c.tok.Derive(ctx, master, m.KDF, context, spec); err != nil {
			return err
		}
	}
	if err := c.same(ctx, key, master, m.KDF, context, r); err != nil {
		return err
	}
	if _, recorded := c.records[r.label()]; recorded {
		return nil // it was lost and is back, the same as before: derived from the same master key
	}
	return r.write(ctx, c.tok)
}

// same derives the purpose key once more, as a session key, and compares the two by what they give: the MAC of a
// constant under a key derived from each. The key that is compared serves nothing else: its context has a label of
// its own.
func (c *creation) same(ctx context.Context, key, master *hsm.Key, kdf hsm.KDF, derivation []byte, r record) (err error) {
	twin, err := c.tok.Derive(ctx, master, kdf, derivation, hsm.Spec{Kind: hsm.PurposeKey, KDF: kdf})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, twin.Destroy(context.WithoutCancel(ctx))) }()
	label := detcbor.Array("dk-purpose-check", 1, r.Realm, r.KDF, r.Master, r.Purpose)
	mac, err := c.checkValue(ctx, key, kdf, label)
	if err != nil {
		return err
	}
	return c.usingCheckKey(ctx, twin, kdf, label, func(k *hsm.Key) error {
		if err := k.Verify(ctx, label, mac); errors.Is(err, hsm.ErrMAC) {
			return fmt.Errorf("purpose key %q is not the one that %q gives: something else made it; destroy it by hand, after finding out what did", r.label(), master.Label())
		} else if err != nil {
			return err
		}
		return nil
	})
}

func (c *creation) checkValue(ctx context.Context, purpose *hsm.Key, kdf hsm.KDF, label []byte) (mac []byte, err error) {
	err = c.usingCheckKey(ctx, purpose, kdf, label, func(k *hsm.Key) (err error) {
		mac, err = k.MAC(ctx, label)
		return err
	})
	return mac, err
}

func (c *creation) usingCheckKey(ctx context.Context, purpose *hsm.Key, kdf hsm.KDF, label []byte, f func(*hsm.Key) error) error {
	k, err := c.tok.Derive(ctx, purpose, kdf, label, hsm.Spec{Kind: hsm.DeviceKey})
	if err != nil {
		return err
	}
	return errors.Join(f(k), k.Destroy(context.WithoutCancel(ctx)))
}
