package hsm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/devicekeys/devicekeys/secret"
)

// TokenInfo is what a token says of itself.
type TokenInfo struct {
	Label        string
	Serial       string
	Manufacturer string
	Model        string
	// Initialised: it has a label and a security officer. A slot with a token that
	// isn't is free for [Module.InitToken].
	Initialised bool
	// UserPIN: a user PIN was set. Without it the making of the token was broken off.
	UserPIN bool
	// LastTry and Locked tell of wrong PINs before. SoftHSM never locks.
	LastTry, Locked bool
}

const (
	// startTries: a token file that another process is rewriting (it logs in) looks
	// like no token. A rewrite takes milliseconds.
	startTries = 4
	startPause = 50 * time.Millisecond
)

// pause waits d unless the context ends first.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return fmt.Errorf("hsm: %w", ctx.Err())
	case <-time.After(d):
		return nil
	}
}

// slot is a slot with its token and this process's login to it. library.mu guards it.
type slot struct {
	id   uint
	info TokenInfo

	// signer: crypto11 is logged in here and stays so until the module is closed.
	signer bool
	// opens counts the Tokens open on this slot; the login lives while it isn't zero.
	opens int
	// hold is the session that keeps the login while opens > 0.
	hold pkcs11.SessionHandle
	// pin is the PIN that this process logged in with, kept to refuse another one and to
	// log in again after the token was lost; zero when it isn't logged in.
	pin secret.Secret
	// tokens are those opens.
	tokens map[*Token]bool

	// away: the token was lost, and why; it is being opened again.
	away error
	// stopped: its PIN was refused then, and it isn't tried again.
	stopped error

	// For the recovery, whose mu guards them: when it last looked at the slot, and how
	// long it waits before it looks again.
	tried time.Time
	pause time.Duration
}

// used tells whether the process needs the slot's token.
func (sl *slot) used() bool { return sl.signer || sl.opens > 0 }

func (r TokenRef) check() error {
	switch {
	case r.Label == "" && r.Serial == "":
		return errors.New("hsm: name a token by label or serial number: both are empty")
	case len(r.Label) > maxTokenLabel:
		return fmt.Errorf("hsm: token label %q is longer than %d bytes", r.Label, maxTokenLabel)
	case len(r.Serial) > 16:
		return fmt.Errorf("hsm: serial number %q is longer than 16 bytes", r.Serial)
	}
	return nil
}

func (r TokenRef) matches(i TokenInfo) bool {
	return i.Initialised && (r.Label == "" || r.Label == i.Label) && (r.Serial == "" || r.Serial == i.Serial)
}

// findSlot looks up the one token that r names. A token missing right after the start,
// or a slot that answers CKR_GENERAL_ERROR, may be a token file in the middle of being
// rewritten; the module reads the directory only when it is initialised, so as long as
// nothing is open it is initialised again, a few times. Needs lib.mu or sole ownership,
// and the lock file.
func (lib *library) findSlot(ctx context.Context, r TokenRef) (*slot, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		sl, err := lib.lookup(r)
		if err == nil || try == startTries || Classify(err) == Stop && !errors.Is(err, ErrNoToken) {
			return sl, err
		}
		if lib.inUse() {
			if errors.Is(err, ErrNoToken) {
				return nil, fmt.Errorf("%w (a token made by another process is seen after a restart)", err)
			}
		} else if err := lib.reinitialise(); err != nil {
			return nil, err
		}
		if err := pause(ctx, startPause); err != nil {
			return nil, err
		}
	}
}

func (lib *library) inUse() bool { return len(lib.used) > 0 }

func (lib *library) reinitialise() error {
	if err := ended(lib.finalize()); err != nil {
		return fmt.Errorf("hsm: initialise the module again: %w", err)
	}
	if err := lib.initialize(); err != nil {
		return fmt.Errorf("hsm: initialise the module again: %w", err)
	}
	lib.slots = map[uint]*slot{}
	return nil
}

func (lib *library) lookup(r TokenRef) (*slot, error) {
	damaged, err := lib.scan()
	if err != nil {
		return nil, err
	}
	var found *slot
	for _, sl := range lib.slots {
		if !r.matches(sl.info) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("hsm: two tokens are %s (serial numbers %q and %q): name the serial number", r, found.info.Serial, sl.info.Serial)
		}
		found = sl
	}
	if found == nil && damaged != nil {
		return nil, fmt.Errorf("hsm: token %s: %w among those that answer, and there is one that does not: its file may be damaged, restore it from a backup of the token directory: %w", r, ErrNoToken, damaged)
	}
	if found == nil {
		return nil, fmt.Errorf("hsm: token %s: %w: check the label, the module's configuration and the token directory", r, ErrNoToken)
	}
	// What was seen at the scan may be old: another process may have made the token
	// anew or locked it since.
	if err := lib.refresh(found); err != nil {
		return nil, err
	}
	if !r.matches(found.info) {
		return nil, fmt.Errorf("hsm: token %s: %w: it was there before and has been made anew", r, ErrNoToken)
	}
	return found, nil
}

// scan asks every slot that isn't known yet, or was free, for its token. With
// thousands of tokens a full scan takes a second, so it happens once.
//
// A slot that answers with an error is passed over, and damaged is that error: a kill
// while SoftHSM writes a token leaves a file of a few bytes, and one such token must
// not take the others' away. It may also be a file in the middle of being rewritten,
// so the slot is asked again at the next scan.
func (lib *library) scan() (damaged, err error) {
	ids, err := lib.slotList()
	if err != nil {
		return nil, fmt.Errorf("hsm: list slots: %w", err)
	}
	for _, id := range ids {
		sl := lib.slots[id]
		if sl != nil && sl.info.Initialised {
			continue
		}
		if sl == nil {
			sl = &slot{id: id, tokens: map[*Token]bool{}}
		}
		err := lib.refresh(sl)
		switch code := codeOf(err); { // 0: no code of PKCS#11
		case err == nil:
			lib.slots[id] = sl
		case code == pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED || code == 0:
			return nil, err // the module is at fault, not this slot
		default:
			damaged = fmt.Errorf("slot %d: %w", id, err)
		}
	}
	return damaged, nil
}

const (
	// glances and glancePause bound how often and how long token information is read
	// again: a login rewrites the token's file in a few milliseconds.
	glances     = 5
	glancePause = 10 * time.Millisecond
)

// glance reads a token's information while other processes may be logging in: SoftHSM
// empties the token's file and writes it again then, and whoever reads in between gets
// CKR_GENERAL_ERROR. A token that is lost gives it every time.
func (lib *library) glance(slot uint) error {
	for n := 1; ; n++ {
		_, err := lib.tokenInfo(slot)
		if uint(codeOf(err)) != pkcs11.CKR_GENERAL_ERROR || n == glances {
			return err
		}
		time.Sleep(glancePause)
	}
}

func (lib *library) refresh(sl *slot) error {
	i, err := lib.tokenInfo(sl.id)
	if err != nil {
		return fmt.Errorf("hsm: read token information: %w", err)
	}
	sl.info = TokenInfo{
		Label: i.Label, Serial: i.SerialNumber, Manufacturer: i.ManufacturerID, Model: i.Model,
		Initialised: i.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0,
		UserPIN:     i.Flags&pkcs11.CKF_USER_PIN_INITIALIZED != 0,
		LastTry:     i.Flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0,
		Locked:      i.Flags&pkcs11.CKF_USER_PIN_LOCKED != 0,
	}
	return nil
}
