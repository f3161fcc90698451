package hsm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/miekg/pkcs11"
)

// Options bound a token's sessions.
type Options struct {
	// Sessions that may be in use at once; 0 means 8. One more is kept for the login.
	Sessions int
	// Wait is the longest wait for a free session, after which [ErrBusy]; 0 means 5 s.
	Wait time.Duration
	// KDF2Host lets [KDF2] run through C_Sign in a token without
	// CKM_SP800_108_COUNTER_KDF: the derived key's bytes then pass through this
	// process's memory. Off, such a token refuses KDF2.
	KDF2Host bool
}

const (
	defaultSessions = 8
	defaultWait     = 5 * time.Second
	maxSessions     = 1024 // beyond any token's worth; a slip of the pen otherwise
)

// Token is a token this process is logged in to. Safe for concurrent use.
type Token struct {
	lib        *library
	module     *Module
	slot       *slot
	info       TokenInfo
	mechanisms map[uint]bool
	kdf2Host   bool
	pool       *pool
	nonces     nonces

	// anchor is a session that serves no operation, so that nothing can poison it; hot
	// copies and the self-test's key live in it. anchorMu also serialises its use.
	anchorMu sync.Mutex
	anchor   *session
	testKey  pkcs11.ObjectHandle // 0: none yet

	// verified remembers for which kinds the attributes of a session key were read
	// back in this token.
	verified sync.Map // kindKey -> struct{}
	// health is a key of this token that a health check may read.
	health healthKey

	closeOnce sync.Once
	closeErr  error
}

// Open logs in to c's token and returns it. A wrong PIN gives [ErrPIN], also where the
// process is logged in already, in which case the module itself would take any. A
// token may be opened more than once; the login ends with the last Close.
func (m *Module) Open(ctx context.Context, c Credentials, o Options) (*Token, error) {
	lib, err := m.library(ctx)
	if err != nil {
		return nil, err
	}
	if o.Sessions == 0 {
		o.Sessions = defaultSessions
	}
	if o.Wait == 0 {
		o.Wait = defaultWait
	}
	if o.Sessions < 1 || o.Sessions > maxSessions || o.Wait < 0 {
		return nil, fmt.Errorf("hsm: open token %s: %d sessions with a wait of %v: give 1 to %d sessions and a positive wait", c.Token, o.Sessions, o.Wait, maxSessions)
	}
	t, err := lib.open(ctx, c, o, m.production)
	if err != nil {
		return nil, err
	}
	t.module = m
	m.mu.Lock()
	late := m.closed
	if !late {
		m.tokens[t] = true
	}
	m.mu.Unlock()
	if late {
		return nil, errors.Join(fmt.Errorf("hsm: module: %w", ErrClosed), t.Close())
	}
	return t, nil
}

func (lib *library) open(ctx context.Context, c Credentials, o Options, production bool) (*Token, error) {
	lib.mu.Lock()
	defer lib.mu.Unlock()
	unlock, err := lockFile(ctx, lib.lockFile)
	if err != nil {
		return nil, err
	}
	defer unlock()
	sl, err := lib.findSlot(ctx, c.Token)
	if err != nil {
		return nil, err
	}
	if err := sl.usable(production, c.PIN); err != nil {
		return nil, err
	}
	if err := lib.hold(sl, c); err != nil {
		return nil, err
	}
	mechanisms, err := lib.cryptoki.mechanisms(sl.id)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("hsm: list mechanisms of token %s: %w", c.Token, err), lib.release(sl))
	}
	t := &Token{
		lib: lib, slot: sl, info: sl.info, mechanisms: mechanisms, kdf2Host: o.KDF2Host,
		pool: newPool(lib, sl, o), nonces: nonces{lib: lib},
	}
	sl.tokens[t] = true
	return t, nil
}

// Info is what the token said of itself when it was opened.
func (t *Token) Info() TokenInfo { return t.info }

// Close waits for the calls under way (10 s at most), closes the token's sessions, at
// which its session objects die, and ends the login if no other Token uses it. Safe to
// call twice.
func (t *Token) Close() error {
	t.closeOnce.Do(func() {
		errs := []error{t.pool.close()}
		// From here on it isn't being opened again.
		t.lib.mu.Lock()
		t.anchorMu.Lock()
		if t.anchor != nil {
			t.anchor.dead.Store(true)
			if t.slot.away == nil {
				errs = append(errs, ended(t.lib.closeSession(t.anchor.handle)))
			}
			t.anchor = nil
		}
		t.anchorMu.Unlock()
		delete(t.slot.tokens, t)
		errs = append(errs, t.lib.release(t.slot))
		t.lib.mu.Unlock()
		t.module.mu.Lock()
		delete(t.module.tokens, t)
		t.module.mu.Unlock()
		if err := errors.Join(errs...); err != nil {
			t.closeErr = fmt.Errorf("hsm: close token %q: %w", t.info.Label, err)
		}
	})
	return t.closeErr
}

// with runs f in one of the token's sessions and names the act in its error.
func (t *Token) with(ctx context.Context, act string, f func(*session) error) error {
	if err := t.pool.with(ctx, f); err != nil {
		t.lib.recovery.observe(t.slot, err)
		return fmt.Errorf("hsm: %s in token %q: %w", act, t.info.Label, err)
	}
	return nil
}

// anchored runs f in the anchor session; as in pool.with, one that is of no use any more
// is replaced.
func (t *Token) anchored(f func(*session) error) error {
	t.anchorMu.Lock()
	defer t.anchorMu.Unlock()
	for try := 1; ; try++ {
		if err := t.pool.state(); err != nil {
			return err
		}
		if t.anchor == nil {
			s, err := t.lib.openLoggedIn(t.slot.id)
			if err != nil {
				return err
			}
			t.anchor = s
		}
		err := f(t.anchor)
		if !poisons(err) {
			return err
		}
		_ = t.lib.closeSession(t.anchor.handle) // of no use any more, whatever it answers
		t.forgetAnchor()
		if try == 2 || !untouched(err) {
			return err
		}
	}
}

// forgetAnchor needs anchorMu.
func (t *Token) forgetAnchor() {
	if t.anchor != nil {
		t.anchor.dead.Store(true)
	}
	t.anchor, t.testKey = nil, 0
}

// maxRandom bounds one Random: more is a mistake of units.
const maxRandom = 1 << 16

// Random returns n bytes from the token's generator, 1 to 65536.
func (t *Token) Random(ctx context.Context, n int) ([]byte, error) {
	if n < 1 || n > maxRandom {
		return nil, fmt.Errorf("hsm: %d random bytes: ask for 1 to %d", n, maxRandom)
	}
	var b []byte
	err := t.with(ctx, "draw random bytes", func(s *session) (err error) {
		b, err = t.lib.random(s.handle, n)
		return err
	})
	return b, err
}
