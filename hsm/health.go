package hsm

import (
	"context"

	"github.com/miekg/pkcs11"
)

// Check tells whether the token works. It reads a token key where there is one, as
// SoftHSM goes on calling a session healthy after its token's directory is gone. It
// reads and doesn't use the key: a use would need an audit entry. A key that was there
// and has been destroyed by somebody else keeps the check failing ([ErrKeyGone]).
func (t *Token) Check(ctx context.Context) error {
	return t.with(ctx, "check health", func(s *session) error {
		if _, err := t.lib.tokenInfo(t.slot.id); err != nil {
			return err
		}
		if t.health.Load() == 0 {
			if err := t.findHealthKey(s); err != nil {
				return err
			}
		}
		if h := t.health.Load(); h != 0 {
			if _, err := t.lib.attributes(s.handle, pkcs11.ObjectHandle(h), pkcs11.CKA_LABEL); err != nil {
				return err
			}
		}
		_, err := t.lib.random(s.handle, 16)
		return err
	})
}

// findHealthKey looks for any key of the token.
func (t *Token) findHealthKey(s *session) error {
	for _, class := range []uint{pkcs11.CKO_SECRET_KEY, pkcs11.CKO_PRIVATE_KEY} {
		found, err := t.lib.find(s.handle, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_CLASS, class),
		})
		if err != nil {
			return err
		}
		if len(found) > 0 {
			t.health.Store(uint64(found[0]))
			return nil
		}
	}
	return nil
}
