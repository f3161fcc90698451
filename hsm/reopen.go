package hsm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/pkcs11"
)

// recover looks whether the token in sl is well, and opens it again where it isn't. Nil:
// it is well, or nobody needs it any more. An error that is [ErrPIN] is the last word.
func (lib *library) recover(ctx context.Context, sl *slot) error {
	lib.mu.Lock()
	defer lib.mu.Unlock()
	if !sl.used() || sl.stopped != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, reopenWait)
	defer cancel()
	if sl.away == nil {
		cause := lib.examine(sl)
		if cause != nil {
			cause = lib.examineAgain(ctx, sl)
		}
		if cause == nil {
			return lib.freshen(ctx, sl)
		}
		sl.shut(lib, cause)
	}
	err := lib.reopen(ctx, sl)
	switch {
	case err == nil:
		return nil
	case sl.stopped != nil:
		return sl.stopped
	}
	sl.shut(lib, err)
	return err
}

// examine asks the token, not a session, and then whether the login still holds.
func (lib *library) examine(sl *slot) error {
	if err := lib.present(sl); err != nil {
		return err
	}
	if sl.opens > 0 {
		return lib.loggedIn(sl.hold)
	}
	s, err := lib.openLoggedIn(sl.id) // only crypto11 uses it
	if err != nil {
		return err
	}
	return ended(lib.closeSession(s.handle))
}

// examineAgain looks once more, since one bad answer mustn't cost everybody's session
// keys, and looks while no other process logs in, which rewrites the token's file.
func (lib *library) examineAgain(ctx context.Context, sl *slot) error {
	if unlock, err := lockFile(ctx, lib.lockFile); err == nil {
		defer unlock()
	} // else the answer has to do without
	return lib.examine(sl)
}

// present tells whether the token is in its slot and answers.
func (lib *library) present(sl *slot) error {
	i, err := lib.tokenInfo(sl.id)
	switch {
	case err != nil:
		return err
	case i.SerialNumber != sl.info.Serial:
		return fmt.Errorf("another token is in its slot: %w", ErrNoToken)
	}
	return nil
}

// freshen gives crypto11 new sessions when it may have kept one with an operation open.
func (lib *library) freshen(ctx context.Context, sl *slot) error {
	if !sl.signer || !lib.signers.worn.Load() {
		return nil
	}
	lib.signers.shut(fmt.Errorf("%w: its sessions are being replaced", ErrAway))
	defer lib.signers.shut(nil)
	if err := lib.signers.drain(reopenWait); err != nil {
		return err
	}
	// The login holds, so crypto11 joins it: no PIN is checked, no file rewritten.
	return lib.signers.configure(ctx, lib.path, sl.info.Serial, sl.pin, 1)
}

// shut has every use of the token answered by [ErrAway] at once.
func (sl *slot) shut(lib *library, cause error) {
	sl.away = fmt.Errorf("%w (%v)", ErrAway, cause)
	sl.answer(lib, sl.away)
}

// halt is the end: the PIN was refused.
func (sl *slot) halt(lib *library, cause error) {
	sl.stopped = fmt.Errorf("the token was lost, and since then its PIN is not accepted: %w; it is not tried again, as that may lock the token: put the right PIN in the PIN file and restart the program", cause)
	sl.away = sl.stopped
	sl.answer(lib, sl.stopped)
}

func (sl *slot) answer(lib *library, why error) {
	for t := range sl.tokens {
		t.pool.shut(why)
	}
	if sl.signer {
		lib.signers.shut(why)
	}
}

// reopen opens a token that is shut. Where the token answers, its own sessions and login
// are made anew and no other token notices. Where it doesn't, the module may be at fault:
// SoftHSM never again finds a token whose directory was away, and clients of a network
// HSM are alike. Then the whole module is initialised anew, unless another token of the
// process is well, whose session keys would die of that.
func (lib *library) reopen(ctx context.Context, sl *slot) error {
	err := lib.present(sl)
	switch {
	case err != nil:
	case sl.signer && lib.signers.ctx == nil:
		// A try before this one was broken off. crypto11 comes first or not at all.
		return lib.restart(ctx, sl)
	default:
		return lib.reopenSlot(ctx, sl)
	}
	for other := range lib.used {
		if other != sl && other.away == nil && lib.present(other) == nil {
			return fmt.Errorf("%w: token %q is well, so the module isn't initialised anew; if the token is back and this lasts, restart the program", err, other.info.Label)
		}
	}
	return lib.restart(ctx, sl)
}

// reopenSlot makes the sessions and the login of one token anew.
func (lib *library) reopenSlot(ctx context.Context, sl *slot) error {
	if err := lib.drain(sl); err != nil {
		return err
	}
	unlock, err := lockFile(ctx, lib.lockFile)
	if err != nil {
		return err
	}
	defer unlock()
	// What is left of the old login ends here, with all session objects, so that the PIN
	// is checked. A module that has no sessions left may refuse it.
	_ = lib.closeAllSessions(sl.id)
	if sl.signer {
		if err := lib.signers.configure(ctx, lib.path, sl.info.Serial, sl.pin, 1); err != nil {
			return sl.refused(lib, err)
		}
	}
	return lib.enter(sl)
}

// drain waits for the calls under way in a shut slot's token.
func (lib *library) drain(sl *slot) error {
	until := time.Now().Add(reopenWait)
	for t := range sl.tokens {
		if err := t.pool.drain(time.Until(until)); err != nil {
			return fmt.Errorf("token %q: %w: if this lasts, the module hangs: restart the program", sl.info.Label, err)
		}
		if !lockWithin(&t.anchorMu, time.Until(until)) {
			return fmt.Errorf("token %q: a health test hasn't come back: %w: if this lasts, the module hangs: restart the program", sl.info.Label, ErrBusy)
		}
		t.anchorMu.Unlock()
	}
	if sl.signer {
		return lib.signers.drain(time.Until(until))
	}
	return nil
}

// enter logs in to a shut slot's token and opens it for use. Needs the lock file.
func (lib *library) enter(sl *slot) error {
	if sl.opens > 0 {
		s, err := lib.openSession(sl.id)
		if err != nil {
			return err
		}
		if err := lib.loginAgain(sl, s); err != nil {
			_ = lib.closeSession(s) // the next try opens another
			return sl.refused(lib, err)
		}
		sl.hold = s
	}
	for t := range sl.tokens {
		t.reopened()
	}
	sl.away = nil
	if sl.signer {
		lib.signers.shut(nil)
	}
	lib.recovery.reopened.Add(1)
	return nil
}

// loginAgain logs in. The PIN is offered once.
func (lib *library) loginAgain(sl *slot, s pkcs11.SessionHandle) error {
	if sl.signer && lib.signers.ctx != nil {
		return lib.loggedIn(s) // crypto11 has just logged in
	}
	err := lib.login(s, pkcs11.CKU_USER, sl.pin.Bytes())
	if codeOf(err) == pkcs11.CKR_USER_ALREADY_LOGGED_IN {
		// A login that outlived its sessions: the PIN wasn't looked at.
		if err := lib.logout(s); err != nil {
			return err
		}
		err = lib.login(s, pkcs11.CKU_USER, sl.pin.Bytes())
	}
	return err
}

// refused halts the slot when err is of its PIN.
func (sl *slot) refused(lib *library, err error) error {
	if errors.Is(err, ErrPIN) {
		sl.halt(lib, err)
	}
	return err
}

// reopened forgets what was known of the token's objects. Token keys are found again
// when they are used next, with all their attributes.
func (t *Token) reopened() {
	t.anchorMu.Lock()
	t.forgetAnchor()
	t.anchorMu.Unlock()
	t.health.handle.Store(0)
	t.verified.Clear()
	t.pool.reopen()
}

// restart initialises the module anew, for all tokens of the process: none of them
// answers. In the order of the start: crypto11 first, raw beside it, then the logins.
// Tokens that don't come back stay away, and are tried again each by itself.
func (lib *library) restart(ctx context.Context, wanted *slot) error {
	for sl := range lib.used {
		if sl.away == nil {
			sl.shut(lib, errors.New("the module is being initialised anew"))
		}
	}
	// C_Finalize while another thread is in the module is undefined (PKCS#11 v2.40
	// section 5.4).
	for sl := range lib.used {
		if err := lib.drain(sl); err != nil {
			return err
		}
	}
	unlock, err := lockFile(ctx, lib.lockFile)
	if err != nil {
		return err
	}
	defer unlock()
	// From here on every token is to be opened again, whatever happens.
	defer func() {
		for sl := range lib.used {
			if sl.away != nil && sl.stopped == nil {
				lib.recovery.suspect(sl)
			}
		}
	}()
	_ = lib.shutDown() // the module may have been finalised behind our back
	if err := lib.startUp(ctx); err != nil {
		return err
	}
	lib.slots = map[uint]*slot{}
	damaged, err := lib.scan()
	if err != nil {
		return err
	}
	back := map[*slot]bool{}
	for id, found := range lib.slots {
		for sl := range lib.used {
			if found.info.Initialised && found.info.Serial == sl.info.Serial {
				sl.id, sl.info = id, found.info // slots may have new numbers
				lib.slots[id] = sl
				back[sl] = true
			}
		}
	}
	err = nil
	for sl := range lib.used {
		var e error
		switch {
		case sl.stopped != nil:
			continue
		case !back[sl]:
			if e = damaged; e == nil {
				e = ErrNoToken
			}
		default:
			e = lib.enter(sl)
		}
		if e != nil && sl.stopped == nil {
			sl.shut(lib, e)
		}
		if sl == wanted {
			err = e
		}
	}
	return err
}

// shutDown finalises the module. crypto11 does it with its only context, but doesn't look
// whether it worked.
func (lib *library) shutDown() error {
	lib.signers.end()
	return ended(lib.finalize())
}

// startUp initialises it, crypto11 first. When the PIN of crypto11's token is refused the
// other tokens get the module without it.
func (lib *library) startUp(ctx context.Context) error {
	if sl := lib.signSlot; sl != nil && sl.stopped == nil {
		err := lib.signers.configure(ctx, lib.path, sl.info.Serial, sl.pin, startTries)
		if err == nil {
			return lib.attach()
		}
		if err = sl.refused(lib, err); sl.stopped == nil {
			return err
		}
	}
	return lib.initialize()
}
