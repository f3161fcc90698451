package hsm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"
)

// session is one Cryptoki session. The pool hands it to one goroutine at a time.
type session struct {
	handle pkcs11.SessionHandle
	// dead: it was closed, and with it every session object made in it died.
	dead atomic.Bool
}

// pool hands out a token's sessions. They are opened when first needed and stay open
// until the pool is closed, because session objects die with the session that made
// them.
type pool struct {
	lib  *library
	slot uint
	wait time.Duration // longest wait for a session

	// turns holds one value for each session that may be in use at once.
	turns chan struct{}
	inUse atomic.Int64

	mu     sync.Mutex
	idle   []*session // last used first, so that few are opened
	closed bool
}

func newPool(lib *library, slot uint, o Options) *pool {
	return &pool{lib: lib, slot: slot, wait: o.Wait, turns: make(chan struct{}, o.Sessions)}
}

// take gives a session, waiting at most p.wait for one, or as long as ctx lives.
func (p *pool) take(ctx context.Context) (*session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case p.turns <- struct{}{}:
	default:
		t := time.NewTimer(p.wait)
		defer t.Stop()
		select {
		case p.turns <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-t.C:
			return nil, fmt.Errorf("all %d sessions in use for %v: %w", cap(p.turns), p.wait, ErrBusy)
		}
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		<-p.turns
		return nil, ErrClosed
	}
	p.inUse.Add(1)
	if n := len(p.idle); n > 0 {
		s := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return s, nil
	}
	p.mu.Unlock()
	h, err := p.lib.openSession(p.slot)
	if err != nil {
		p.inUse.Add(-1)
		<-p.turns
		return nil, fmt.Errorf("open a session: %w", err)
	}
	return &session{handle: h}, nil
}

// give takes a session back. A poisoned one is closed; the next take opens another.
func (p *pool) give(s *session, poisoned bool) {
	p.mu.Lock()
	if poisoned || p.closed {
		p.mu.Unlock()
		s.dead.Store(true)
		// Whatever it answers, the session is of no use any more.
		_ = p.lib.closeSession(s.handle)
		p.mu.Lock()
	} else {
		p.idle = append(p.idle, s)
	}
	p.mu.Unlock()
	p.inUse.Add(-1)
	<-p.turns
}

// closeWait bounds the wait for sessions in use when a token is closed: the slowest
// single call, making a token key pair on a loaded disk, takes a tenth of it.
const closeWait = 10 * time.Second

// close closes the sessions, waiting for those in use.
func (p *pool) close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	var errs []error
	for _, s := range idle {
		s.dead.Store(true)
		errs = append(errs, p.lib.closeSession(s.handle))
	}
	deadline := time.NewTimer(closeWait)
	defer deadline.Stop()
	for range cap(p.turns) { // whoever uses a session gives its turn back when done
		select {
		case p.turns <- struct{}{}:
		case <-deadline.C:
			return errors.Join(append(errs, fmt.Errorf("sessions still in use after %v: %w", closeWait, ErrBusy))...)
		}
	}
	for range cap(p.turns) {
		<-p.turns
	}
	return errors.Join(errs...)
}

// untouched tells of a code that says the call did nothing because of the session, so
// that the same call may be made once more in another one.
func untouched(err error) bool {
	switch uint(codeOf(err)) {
	case pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_OPERATION_ACTIVE:
		return true
	}
	return false
}

// poisons tells of an answer after which a session may have an operation open, or is
// no session any more. A dead key handle says nothing about the session.
func poisons(err error) bool {
	return Classify(err) == NewSession && !errors.Is(err, ErrKeyGone)
}

// with runs f in a session. A session that f's error shows to be unusable is replaced,
// and f runs once more where nothing can have happened the first time.
func (p *pool) with(ctx context.Context, f func(*session) error) error {
	for try := 1; ; try++ {
		s, err := p.take(ctx)
		if err != nil {
			return err
		}
		err = f(s)
		bad := poisons(err)
		p.give(s, bad)
		if !bad || try == 2 || !untouched(err) {
			return err
		}
	}
}
