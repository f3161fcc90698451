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
// them. While the token is away the pool is shut: it hands out none and says why at once.
type pool struct {
	lib  *library
	slot *slot         // its id changes only while the pool is shut and nothing is in use
	wait time.Duration // longest wait for a session
	// epoch counts how often the token was opened again.
	epoch atomic.Uint64

	// turns holds one value for each session that may be in use at once.
	turns chan struct{}
	inUse atomic.Int64
	// draining is held by the one who collects all turns: two would starve each other.
	draining sync.Mutex

	mu     sync.Mutex
	idle   []*session // last used first, so that few are opened
	opened map[*session]bool
	away   error // not nil: the pool is shut, and why
	closed bool
}

func newPool(lib *library, slot *slot, o Options) *pool {
	return &pool{lib: lib, slot: slot, wait: o.Wait, turns: make(chan struct{}, o.Sessions), opened: map[*session]bool{}}
}

// state tells why the pool hands out no session. Nil: it does.
func (p *pool) state() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	return p.away
}

// take gives a session, waiting at most p.wait for one, or as long as ctx lives.
func (p *pool) take(ctx context.Context) (*session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := p.state(); err != nil { // before waiting: nothing piles up while it is shut
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
	p.inUse.Add(1)
	s, err := p.next()
	if err != nil {
		p.inUse.Add(-1)
		<-p.turns
		return nil, err
	}
	return s, nil
}

// next gives an idle session, or opens one. Needs a turn.
func (p *pool) next() (*session, error) {
	if err := p.state(); err != nil {
		return nil, err
	}
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		s := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return s, nil
	}
	p.mu.Unlock()
	s, err := p.lib.openLoggedIn(p.slot.id)
	if err != nil {
		return nil, fmt.Errorf("open a session: %w", err)
	}
	p.mu.Lock()
	p.opened[s] = true
	p.mu.Unlock()
	return s, nil
}

// openLoggedIn opens a session and makes sure that the token's login holds for it: if it
// was lost, the session would show the public objects only.
func (lib *library) openLoggedIn(slot uint) (*session, error) {
	h, err := lib.openSession(slot)
	if err != nil {
		return nil, err
	}
	if err := lib.loggedIn(h); err != nil {
		_ = lib.closeSession(h) // it serves nobody
		return nil, err
	}
	return &session{handle: h}, nil
}

// give takes a session back. A poisoned one is closed; the next take opens another.
func (p *pool) give(s *session, poisoned bool) {
	p.mu.Lock()
	ours := p.opened[s] // else it was forgotten meanwhile, and its handle means nothing
	unusable := poisoned || p.closed
	switch {
	case ours && unusable:
		delete(p.opened, s)
	case ours:
		p.idle = append(p.idle, s)
	}
	p.mu.Unlock()
	if unusable {
		s.dead.Store(true)
	}
	if ours && unusable {
		// Whatever it answers, the session is of no use any more.
		_ = p.lib.closeSession(s.handle)
	}
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
	for _, s := range idle {
		delete(p.opened, s)
	}
	away := p.away != nil
	p.mu.Unlock()
	var errs []error
	for _, s := range idle {
		s.dead.Store(true)
		if !away { // else it is gone, or goes when the token is opened again
			errs = append(errs, ended(p.lib.closeSession(s.handle)))
		}
	}
	return errors.Join(append(errs, p.drain(closeWait))...)
}

// ended forgives a session for being gone when it is closed.
func ended(err error) error {
	switch uint(codeOf(err)) {
	case pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED,
		pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_TOKEN_NOT_PRESENT:
		return nil
	}
	return err
}

// drain waits until no session is in use: whoever uses one gives its turn back when
// done.
func (p *pool) drain(wait time.Duration) error {
	until := time.Now().Add(wait)
	if !lockWithin(&p.draining, wait) {
		return fmt.Errorf("sessions still in use after %v: %w", wait, ErrBusy)
	}
	defer p.draining.Unlock()
	deadline := time.NewTimer(time.Until(until))
	defer deadline.Stop()
	got := 0
	defer func() {
		for range got {
			<-p.turns
		}
	}()
	for range cap(p.turns) {
		select {
		case p.turns <- struct{}{}:
			got++
		case <-deadline.C:
			return fmt.Errorf("sessions still in use after %v: %w", wait, ErrBusy)
		}
	}
	return nil
}

// shut hands out no more sessions and has take answer why.
func (p *pool) shut(why error) {
	p.mu.Lock()
	p.away = why
	p.mu.Unlock()
}

// reopen forgets the sessions of before, without a call to the module, which doesn't know
// them any more, and hands out new ones. The session objects of before are dead.
func (p *pool) reopen() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for s := range p.opened {
		s.dead.Store(true)
	}
	clear(p.opened)
	p.idle = nil
	p.epoch.Add(1)
	p.away = nil
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
