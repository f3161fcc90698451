package hsm

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/devicekeys/devicekeys/secret"
)

// hold logs in to the slot's token, or joins the login this process has. Needs lib.mu
// and the lock file: SoftHSM rewrites the token's file at C_Login, and another process
// initialising just then would find no token.
func (lib *library) hold(sl *slot, c Credentials) error {
	if sl.digest != nil && !sl.remembers(c.PIN) {
		return fmt.Errorf("hsm: log in to token %s: not the PIN that this process logged in with before: %w", c.Token, ErrPIN)
	}
	if sl.opens > 0 {
		sl.opens++
		return nil
	}
	s, err := lib.openSession(sl.id)
	if err != nil {
		return fmt.Errorf("hsm: open token %s: %w", c.Token, err)
	}
	if sl.digest == nil { // else crypto11 is logged in, with this very PIN
		if err := lib.login(s, pkcs11.CKU_USER, c.PIN.Bytes()); err != nil {
			lib.closeSession(s)
			if codeOf(err) == pkcs11.CKR_USER_ALREADY_LOGGED_IN {
				return fmt.Errorf("hsm: log in to token %s: something else in this process is logged in, so the PIN can't be checked: %w", c.Token, err)
			}
			return fmt.Errorf("hsm: log in to token %s: %w", c.Token, err)
		}
		sl.remember(c.PIN)
	}
	sl.hold, sl.opens = s, 1
	return nil
}

// release undoes one hold; the last closes the session and so ends the login, unless
// crypto11 keeps it. Needs lib.mu.
func (lib *library) release(sl *slot) error {
	if sl.opens--; sl.opens > 0 {
		return nil
	}
	if !sl.signer {
		sl.forget()
	}
	return lib.closeSession(sl.hold)
}

func (sl *slot) remember(pin secret.Secret) {
	sl.salt = make([]byte, 16)
	rand.Read(sl.salt)
	sl.digest = pinDigest(sl.salt, pin)
}

func (sl *slot) remembers(pin secret.Secret) bool {
	return sl.digest != nil && subtle.ConstantTimeCompare(sl.digest, pinDigest(sl.salt, pin)) == 1
}

func (sl *slot) forget() { sl.salt, sl.digest = nil, nil }

func pinDigest(salt []byte, pin secret.Secret) []byte {
	d := sha256.Sum256(append(bytes.Clone(salt), pin.Bytes()...))
	return d[:]
}
