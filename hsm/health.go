package hsm

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/miekg/pkcs11"
)

// healthKey is a token key that a health check may read.
type healthKey struct {
	handle atomic.Uint64 // 0: it has to be looked for
	// known: the token had a key, and it was not this process that destroyed it.
	known atomic.Bool
}

func (h *healthKey) remember(o pkcs11.ObjectHandle) {
	h.handle.Store(uint64(o))
	h.known.Store(true)
}

// forget is told of a key that was destroyed on purpose.
func (h *healthKey) forget(o pkcs11.ObjectHandle) {
	if h.handle.CompareAndSwap(uint64(o), 0) {
		h.known.Store(false)
	}
}

// Check tells whether the token works. It reads a token key where there is one, as
// SoftHSM goes on calling a session healthy after its token's directory is gone. It
// reads and doesn't use the key: a use would need an audit entry. A key that was there
// and has been destroyed by somebody else keeps the check failing ([ErrKeyGone]), as does
// a token that has come back without its keys ([ErrNoKey]). While the token is away the
// answer is [ErrAway], and [ErrPIN] once its PIN was refused; a failing check also sets
// off what opens a lost token again.
func (t *Token) Check(ctx context.Context) error {
	return t.with(ctx, "check health", func(s *session) error {
		if err := t.lib.glance(t.slot.id); err != nil {
			return err
		}
		if t.health.handle.Load() == 0 {
			if err := t.findHealthKey(s); err != nil {
				return err
			}
		}
		if h := t.health.handle.Load(); h != 0 {
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
		found, err := t.find(s, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_CLASS, class),
		})
		if err != nil {
			return err
		}
		if len(found) > 0 {
			t.health.remember(found[0])
			return nil
		}
	}
	if t.health.known.Load() {
		return fmt.Errorf("%w: it had keys, and has come back without: restore it from its backup", ErrNoKey)
	}
	return nil
}
