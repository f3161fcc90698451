package hsm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"

	"github.com/devicekeys/devicekeys/secret"
)

// maxTokenLabel is the size of a token label in CK_TOKEN_INFO, which is padded with
// blanks.
const maxTokenLabel = 32

// Tokens lists the tokens of the module as they were when it was initialised, those
// this process made since included, by label; free slots are left out, and so are slots
// that answer with an error.
func (m *Module) Tokens(ctx context.Context) ([]TokenInfo, error) {
	lib, err := m.library(ctx)
	if err != nil {
		return nil, err
	}
	lib.mu.Lock()
	defer lib.mu.Unlock()
	if _, err := lib.scan(); err != nil {
		return nil, err
	}
	var all []TokenInfo
	for _, sl := range lib.slots {
		if sl.info.Initialised {
			all = append(all, sl.info)
		}
	}
	slices.SortFunc(all, func(a, b TokenInfo) int {
		return strings.Compare(a.Label+"\x00"+a.Serial, b.Label+"\x00"+b.Serial)
	})
	return all, nil
}

// library is the module's library, unless the module is closed or the context ended.
func (m *Module) library(ctx context.Context) (*library, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, fmt.Errorf("hsm: module: %w", ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("hsm: %w", err)
	}
	return m.lib, nil
}

// InitToken makes a token labelled label in the free slot and sets its user PIN. A
// label in use is refused, except where it is that of a token without user PIN: there
// a crash broke InitToken off, nothing can have been stored, and the same call with the
// same SO PIN finishes it. The label has 1 to 32 bytes of printable ASCII without
// blanks at its ends, a PIN 4 to 255.
func (m *Module) InitToken(ctx context.Context, label string, soPIN, userPIN secret.Secret) (TokenInfo, error) {
	lib, err := m.library(ctx)
	if err != nil {
		return TokenInfo{}, err
	}
	if err := checkTokenLabel(label); err != nil {
		return TokenInfo{}, err
	}
	for _, pin := range []secret.Secret{soPIN, userPIN} {
		if n := len(pin.Bytes()); n < 4 || n > 255 {
			return TokenInfo{}, fmt.Errorf("hsm: make token %q: a PIN has %d characters, and 4 to 255 are asked: %w", label, n, ErrPIN)
		}
	}
	if m.production {
		if err := fitForProduction(label, "", userPIN); err != nil {
			return TokenInfo{}, err
		}
	}
	lib.mu.Lock()
	defer lib.mu.Unlock()
	unlock, err := lockFile(ctx, lib.lockFile)
	if err != nil {
		return TokenInfo{}, err
	}
	defer unlock()
	sl, err := lib.slotFor(label)
	if err != nil {
		return TokenInfo{}, err
	}
	if m.production && sl.info.Manufacturer == softHSM {
		return TokenInfo{}, fitForProduction(label, softHSM, userPIN)
	}
	if err := lib.makeToken(sl, label, soPIN, userPIN); err != nil {
		// What the slot holds now is known only by asking it again.
		return TokenInfo{}, errors.Join(fmt.Errorf("hsm: make token %q: %w", label, err), lib.refresh(sl))
	}
	if err := lib.refresh(sl); err != nil {
		return TokenInfo{}, err
	}
	return sl.info, nil
}

func checkTokenLabel(label string) error {
	if label == "" || len(label) > maxTokenLabel || strings.TrimSpace(label) != label {
		return fmt.Errorf("hsm: token label %q: it needs 1 to %d bytes and no blank at either end", label, maxTokenLabel)
	}
	for _, r := range label {
		if r < ' ' || r > '~' {
			return fmt.Errorf("hsm: token label %q: printable ASCII only, since modules disagree about the rest", label)
		}
	}
	return nil
}

// slotFor finds the slot to make label's token in.
func (lib *library) slotFor(label string) (*slot, error) {
	// A damaged slot is left alone: whatever label it had, its keys are gone, and the
	// lock file keeps out who could be rewriting it just now.
	if _, err := lib.scan(); err != nil {
		return nil, err
	}
	var free *slot
	for _, sl := range lib.slots {
		switch {
		case sl.info.Initialised && sl.info.Label == label && !sl.info.UserPIN:
			return sl, nil
		case sl.info.Initialised && sl.info.Label == label:
			return nil, fmt.Errorf("hsm: make token %q: a token of this label exists (serial number %q): choose another label", label, sl.info.Serial)
		case !sl.info.Initialised:
			free = sl
		}
	}
	if free == nil {
		return nil, fmt.Errorf("hsm: make token %q: no slot is free", label)
	}
	return free, nil
}

// makeToken initialises the token and sets the user PIN. A crash after C_InitToken
// leaves a token without user PIN, which Open refuses and the next InitToken of this
// label finishes; a crash inside C_InitToken leaves what holds no key and package
// softhsm's Sweep removes at the next start.
func (lib *library) makeToken(sl *slot, label string, soPIN, userPIN secret.Secret) (err error) {
	if err := lib.initToken(sl.id, soPIN.Bytes(), label); err != nil {
		return err
	}
	s, err := lib.openSession(sl.id)
	if err != nil {
		return err
	}
	// Closing the only session also logs the security officer out.
	defer func() { err = errors.Join(err, lib.closeSession(s)) }()
	if err := lib.login(s, pkcs11.CKU_SO, soPIN.Bytes()); err != nil {
		return err
	}
	if err := lib.initPIN(s, userPIN.Bytes()); err != nil {
		return err
	}
	return lib.logout(s)
}
