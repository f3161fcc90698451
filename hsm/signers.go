package hsm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThalesGroup/crypto11"

	"github.com/devicekeys/devicekeys/secret"
)

const (
	// signSessions is crypto11's pool plus the one session it keeps for itself.
	signSessions = 8 + 1
	// signWait bounds the wait for one of them; crypto11's default is for ever, and
	// crypto.Signer has no context. A TLS handshake has given up by then.
	signWait = 5 * time.Second
)

// signers is crypto11's side of the library: a context, which is replaced when the token
// was lost. Keys found in one mean nothing in the next.
type signers struct {
	// mu is held for reading while crypto11 is at work, for writing while its context is
	// replaced. It is never waited for by writers, so that readers aren't held up.
	mu    sync.RWMutex
	ctx   *crypto11.Context // nil: the token is away, or crypto11 isn't used
	epoch uint64            // how often there was a context

	away atomic.Pointer[error] // why there is no signing just now
	// worn: a call has failed in a way that may leave an operation open in the session,
	// which crypto11 would hand out again.
	worn atomic.Bool
}

// shut has everybody who wants to sign told why that isn't possible. nil: it is again.
func (g *signers) shut(why error) {
	if why == nil {
		g.away.Store(nil)
		return
	}
	g.away.Store(&why)
}

// enter begins a use of crypto11's context; leave ends it.
func (g *signers) enter() error {
	g.mu.RLock()
	if why := g.away.Load(); why != nil {
		g.mu.RUnlock()
		return *why
	}
	if g.ctx == nil {
		g.mu.RUnlock()
		return ErrClosed
	}
	return nil
}

func (g *signers) leave() { g.mu.RUnlock() }

// configure opens a token by its serial number, and with it the module if nobody has. A
// context of before is closed after that: crypto11 finalises the module with its last
// context. The PIN is offered once; other failures may be those of a token file that
// another process is rewriting, and are tried again. Nothing may be signing.
func (g *signers) configure(ctx context.Context, path, serial string, pin secret.Secret, tries int) error {
	for try := 1; ; try++ {
		made, err := crypto11.Configure(&crypto11.Config{
			Path:            path,
			TokenSerial:     serial,
			Pin:             string(pin.Bytes()),
			MaxSessions:     signSessions,
			PoolWaitTimeout: signWait,
			GCMIVLength:     12, // its default of 16 isn't what SP 800-38D recommends
		})
		if err == nil {
			g.end()
			g.ctx = made
			g.epoch++
			g.worn.Store(false)
			return nil
		}
		err = translated(err)
		if errors.Is(err, ErrPIN) || try >= tries {
			return err
		}
		if err := pause(ctx, startPause); err != nil {
			return err
		}
	}
}

// end closes the context. Where it is crypto11's last, that finalises the module.
func (g *signers) end() {
	if g.ctx != nil {
		_ = g.ctx.Close() // never fails
		g.ctx = nil
	}
}

// drain waits until nobody is signing.
func (g *signers) drain(wait time.Duration) error {
	if !lockWithin(&g.mu, wait) {
		return fmt.Errorf("signatures still under way after %v: %w", wait, ErrBusy)
	}
	g.mu.Unlock()
	return nil
}

// lockWithin locks l within a time. It asks again and again, since a writer that waits
// for a lock would hold up its readers.
func lockWithin(l interface{ TryLock() bool }, wait time.Duration) bool {
	const step = time.Millisecond
	for until := time.Now().Add(wait); !l.TryLock(); time.Sleep(step) {
		if time.Now().After(until) {
			return false
		}
	}
	return true
}
