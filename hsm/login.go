package hsm

import (
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/devicekeys/devicekeys/secret"
)

// hold logs in to the slot's token, or joins the login this process has. Needs lib.mu
// and the lock file: SoftHSM rewrites the token's file at C_Login, and another process
// initialising just then would find no token.
func (lib *library) hold(sl *slot, c Credentials) error {
	if !sl.pin.IsZero() && !sl.remembers(c.PIN) {
		return fmt.Errorf("hsm: log in to token %s: not the PIN that this process logged in with before: %w", c.Token, ErrPIN)
	}
	if sl.stopped != nil {
		return sl.stopped
	}
	if sl.away != nil {
		return fmt.Errorf("hsm: log in to token %s: %w", c.Token, sl.away)
	}
	if sl.opens > 0 {
		sl.opens++
		return nil
	}
	s, err := lib.openSession(sl.id)
	if err != nil {
		return fmt.Errorf("hsm: open token %s: %w", c.Token, err)
	}
	if sl.pin.IsZero() { // else crypto11 is logged in, with this very PIN
		err := lib.login(s, pkcs11.CKU_USER, c.PIN.Bytes())
		if codeOf(err) == pkcs11.CKR_USER_ALREADY_LOGGED_IN {
			// Nobody here uses the token: the login is what a call has left that failed after
			// its effect. The PIN wasn't looked at.
			if err = lib.closeAllSessions(sl.id); err == nil {
				if s, err = lib.openSession(sl.id); err == nil {
					err = lib.login(s, pkcs11.CKU_USER, c.PIN.Bytes())
				}
			}
		}
		if err != nil {
			_ = lib.closeSession(s) // of no use, whatever it answers
			return fmt.Errorf("hsm: log in to token %s: %w", c.Token, err)
		}
		sl.pin = c.PIN
	} else if err := lib.loggedIn(s); err != nil {
		// That login was lost, and nobody has noticed yet.
		_ = lib.closeSession(s)
		lib.recovery.suspect(sl)
		return fmt.Errorf("hsm: log in to token %s: %w: %w", c.Token, ErrAway, err)
	}
	sl.hold, sl.opens = s, 1
	lib.used[sl] = true
	return nil
}

// release undoes one hold; the last closes the session and so ends the login, unless
// crypto11 keeps it. Needs lib.mu.
func (lib *library) release(sl *slot) error {
	if sl.opens--; sl.opens > 0 {
		return nil
	}
	hold, away := sl.hold, sl.away != nil || sl.stopped != nil
	sl.hold = 0
	if !sl.signer {
		sl.pin = secret.Secret{}
		sl.away, sl.stopped = nil, nil
		delete(lib.used, sl)
	}
	if away {
		return nil // the session is gone
	}
	return ended(lib.closeSession(hold))
}

// remembers tells whether pin is the one that this process logged in with.
func (sl *slot) remembers(pin secret.Secret) bool { return !sl.pin.IsZero() && sl.pin.Equal(pin) }
