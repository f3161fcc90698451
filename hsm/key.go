package hsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/miekg/pkcs11"
)

// Key is a key in a token: a handle that this process keeps. Its methods are safe for
// concurrent use; each takes a session from the token's pool. A session key dies with
// the Token it was made in, when the session it was made in had to be replaced, and when
// the token was lost; its methods then return [ErrKeyGone]. A token key outlives that.
type Key struct {
	token  *Token
	spec   Spec
	plan   *plan
	public []byte
	// at is where the key is; nil when that has to be found out again, which only
	// happens to token objects.
	at atomic.Pointer[handles]
	// finding is held while it is.
	finding sync.Mutex
	// born is the session that a session object lives and dies with; nil for a token
	// object.
	born *session
	gone atomic.Bool // destroyed by this process
}

// handles are the module's numbers for a key.
type handles struct {
	key pkcs11.ObjectHandle
	pub pkcs11.ObjectHandle // a token pair's public object; 0 where there is none
	// epoch is the pool's when they were found: when the token was opened again since,
	// they mean nothing.
	epoch uint64
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

// object gives the key's handle, for use in s. A handle known to be dead is refused
// without asking the module, which may have given the number to another object. A token
// key that isn't where it was, because the token was opened again, is found again by its
// full template.
func (k *Key) object(s *session) (pkcs11.ObjectHandle, error) {
	if k.gone.Load() || k.born != nil && k.born.dead.Load() {
		return 0, ErrKeyGone
	}
	if at := k.at.Load(); at != nil && (k.born != nil || at.epoch == k.token.pool.epoch.Load()) {
		return at.key, nil
	}
	return k.find(s)
}

// find finds a token key again.
func (k *Key) find(s *session) (pkcs11.ObjectHandle, error) {
	k.finding.Lock()
	defer k.finding.Unlock()
	if at := k.at.Load(); at != nil && at.epoch == k.token.pool.epoch.Load() {
		return at.key, nil // somebody else found it meanwhile
	}
	again, err := k.token.findKey(s, k.spec, k.plan)
	if errors.Is(err, ErrNoKey) {
		return 0, fmt.Errorf("%w, where it was before: restore the token from its backup", err)
	}
	if err != nil {
		return 0, fmt.Errorf("find it again: %w", err)
	}
	if k.public != nil && !bytes.Equal(k.public, again.public) {
		return 0, fmt.Errorf("%w: a different pair has its label now: restore the token from its backup", ErrNoKey)
	}
	at := again.at.Load()
	k.at.Store(at)
	return at.key, nil
}

// noted forgets where token keys are when the module has answered that one of their
// handles is none: the next use finds them again, or finds that they are gone.
func noted(err error, used ...*Key) error {
	if errors.Is(codeOf(err), ErrKeyGone) {
		for _, k := range used {
			if k.born == nil {
				k.at.Store(nil)
			}
		}
	}
	return err
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

// use runs f with the key's handle in a session.
func (k *Key) use(ctx context.Context, act string, f func(*session, pkcs11.ObjectHandle) error) error {
	return k.token.with(ctx, act, func(s *session) error {
		h, err := k.object(s)
		if err != nil {
			return err
		}
		return noted(f(s, h), k)
	})
}

// Destroy destroys the key, a token pair with both halves. A second Destroy returns
// [ErrKeyGone]. A crash between the two halves leaves a public key alone, which
// [Token.Sweep] removes.
func (k *Key) Destroy(ctx context.Context) error {
	return k.use(ctx, "destroy "+k.String(), func(s *session, h pkcs11.ObjectHandle) error {
		var pub pkcs11.ObjectHandle
		if at := k.at.Load(); at != nil {
			pub = at.pub
		}
		if !k.gone.CompareAndSwap(false, true) {
			return ErrKeyGone
		}
		if err := k.token.lib.destroyObject(s.handle, h, k.born == nil); err != nil {
			if !errors.Is(err, ErrKeyGone) {
				k.gone.Store(false)
			}
			return err
		}
		k.token.health.forget(h) // destroyed on purpose
		if pub != 0 {
			return k.token.lib.destroyObject(s.handle, pub, k.born == nil)
		}
		return nil
	})
}

// made wraps a new handle. A session object belongs to the session it was made in.
func (t *Token) made(s *session, spec Spec, p *plan, h pkcs11.ObjectHandle) *Key {
	k := &Key{token: t, spec: spec, plan: p}
	k.at.Store(&handles{key: h, epoch: t.pool.epoch.Load()})
	if !spec.Token {
		k.born = s
	}
	return k
}

// discard destroys an object that turned out wrong, adding to err what went wrong with
// that. lasting: the objects are the token's; for a session object a failure is harmless,
// as it dies with its session.
func (t *Token) discard(s *session, err error, lasting bool, handles ...pkcs11.ObjectHandle) error {
	for _, h := range handles {
		if h == 0 {
			continue
		}
		if e := t.lib.destroyObject(s.handle, h, lasting); e != nil {
			err = errors.Join(err, fmt.Errorf("destroy what was made: %w", e))
		}
	}
	return err
}
