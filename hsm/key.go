package hsm

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/miekg/pkcs11"
)

// Key is a key in a token: a handle that this process keeps. Its methods are safe for
// concurrent use; each takes a session from the token's pool. A session key dies with
// the Token it was made in, or when the session it was made in had to be replaced; its
// methods then return [ErrKeyGone].
type Key struct {
	token  *Token
	spec   Spec
	plan   *plan
	handle pkcs11.ObjectHandle
	// pub is a token pair's public object; 0 where there is none.
	pub    pkcs11.ObjectHandle
	public []byte
	// born is the session that a session object lives and dies with; nil for a token
	// object.
	born *session
	gone atomic.Bool // destroyed by this process
}

// Label is the key's label; for a session key it may be empty.
func (k *Key) Label() string { return k.spec.Label }

// Kind is what the key is for.
func (k *Key) Kind() Kind { return k.spec.Kind }

// Public is a pair's public half: 65 bytes, an uncompressed point, for P-256; 32 bytes
// for Ed25519. Nil for a secret key, and for a private key that was unwrapped, as the
// blob doesn't carry it. The caller must not change it.
func (k *Key) Public() []byte { return k.public }

// String names the key in messages: its kind and label, nothing of its value.
func (k *Key) String() string {
	if k.spec.Label == "" {
		return k.spec.Kind.String()
	}
	return fmt.Sprintf("%s %q", k.spec.Kind, k.spec.Label)
}

// alive refuses a handle known to be dead without asking the module: a module may give
// the number to another object.
func (k *Key) alive() error {
	if k.gone.Load() || k.born != nil && k.born.dead.Load() {
		return ErrKeyGone
	}
	return nil
}

// of refuses a key of another token: handles of one mean nothing in another.
func (k *Key) of(t *Token) error {
	switch {
	case k == nil:
		return errors.New("no key given")
	case k.token != t:
		return fmt.Errorf("the %s is in token %q", k, k.token.info.Label)
	}
	return nil
}

// use runs f with the key in a session.
func (k *Key) use(ctx context.Context, act string, f func(*session) error) error {
	return k.token.with(ctx, act, func(s *session) error {
		if err := k.alive(); err != nil {
			return err
		}
		return f(s)
	})
}

// Destroy destroys the key, a token pair with both halves. A second Destroy returns
// [ErrKeyGone]. A crash between the two halves leaves a public key alone, which
// [Token.Sweep] removes.
func (k *Key) Destroy(ctx context.Context) error {
	return k.use(ctx, "destroy "+k.String(), func(s *session) error {
		if !k.gone.CompareAndSwap(false, true) {
			return ErrKeyGone
		}
		if err := k.token.lib.destroyObject(s.handle, k.handle); err != nil {
			if !errors.Is(err, ErrKeyGone) {
				k.gone.Store(false)
			}
			return err
		}
		k.token.health.CompareAndSwap(uint64(k.handle), 0) // destroyed on purpose
		if k.pub != 0 {
			return k.token.lib.destroyObject(s.handle, k.pub)
		}
		return nil
	})
}

// made wraps a new handle. A session object belongs to the session it was made in.
func (t *Token) made(s *session, spec Spec, p *plan, h pkcs11.ObjectHandle) *Key {
	k := &Key{token: t, spec: spec, plan: p, handle: h}
	if !spec.Token {
		k.born = s
	}
	return k
}

// discard destroys an object that turned out wrong, adding to err what went wrong with
// that. For a session object a failure is harmless: it dies with its session.
func (t *Token) discard(s *session, err error, handles ...pkcs11.ObjectHandle) error {
	for _, h := range handles {
		if h == 0 {
			continue
		}
		if e := t.lib.destroyObject(s.handle, h); e != nil {
			err = errors.Join(err, fmt.Errorf("destroy what was made: %w", e))
		}
	}
	return err
}
