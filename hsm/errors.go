package hsm

import (
	"context"
	"errors"

	"github.com/miekg/pkcs11"
)

// The sentinels. Everything else is told by [Classify].
var (
	// ErrNoKey: no object of this label and kind is in the token.
	ErrNoKey = errors.New("no such key in the token")
	// ErrNoToken: no slot holds a token of this label or serial number.
	ErrNoToken = errors.New("no such token")
	// ErrDamaged: a slot beside the one asked for tells nothing of its token, which keeps
	// crypto11 from all of them. Its token must be restored or removed.
	ErrDamaged = errors.New("a slot does not answer, and its token may be damaged")
	// ErrPIN: the PIN was refused. Trying again may lock the token.
	ErrPIN = errors.New("PIN refused")
	// ErrBusy: no session, or not the lock file, became free within the time allowed.
	ErrBusy = errors.New("no session free in time")
	// ErrMAC: the MAC isn't this key's over this message.
	ErrMAC error = dataFault("MAC does not match")
	// ErrData: what came from outside (a blob, a ciphertext, a point) is at fault.
	ErrData error = dataFault("data refused")
	// ErrAway: the token or the login was lost. The token opens itself again; ask later.
	ErrAway = errors.New("the token was lost and is being opened again")
	// ErrKeyGone: the handle died (its session was replaced, the token was opened again, or
	// somebody destroyed the object). Derive the key again.
	ErrKeyGone = errors.New("key handle is gone")
	// ErrProduction: a token, PIN or label fit for development only was met with
	// Config.Production set.
	ErrProduction = errors.New("refused in production")
	// ErrClosed: the token or module was closed by this process.
	ErrClosed = errors.New("closed")
)

// dataFault is an error whose cause is what came from outside. Callers who must not
// import this package ask with errors.As for interface{ DataFault() bool }; every error
// here of class [DataFault] answers true.
type dataFault string

func (e dataFault) Error() string { return string(e) }
func (dataFault) DataFault() bool { return true }

// Class says what an error asks of the caller.
type Class int

const (
	// None: there was no error.
	None Class = iota
	// Retry: busy or short of something; the same call may work later.
	Retry
	// NewSession: the session was replaced; keys that lived in it are gone, the rest
	// works on.
	NewSession
	// Reinitialise: the token or the login may be lost. The Token looks into it and opens
	// itself again; meanwhile it answers [ErrAway], of class Retry.
	Reinitialise
	// Stop: asking again can't help: a refused PIN, a forbidden use, a wrong template.
	Stop
	// DataFault: the data from outside is at fault; the token is well.
	DataFault
)

// String is the class's name in metrics.
func (c Class) String() string {
	switch c {
	case None:
		return "none"
	case Retry:
		return "retry"
	case NewSession:
		return "new_session"
	case Reinitialise:
		return "reinitialise"
	case DataFault:
		return "data"
	default:
		return "stop"
	}
}

const classes = int(DataFault) + 1

// Classify tells what err asks of the caller. An error that isn't from this package is
// [Stop], except that a passed deadline is [Retry].
func Classify(err error) Class {
	switch {
	case err == nil:
		return None
	case errors.Is(err, ErrData), errors.Is(err, ErrMAC):
		return DataFault
	case errors.Is(err, ErrAway):
		return Retry
	case errors.Is(err, ErrPIN), errors.Is(err, ErrProduction), errors.Is(err, ErrNoKey), errors.Is(err, ErrNoToken),
		errors.Is(err, ErrDamaged), errors.Is(err, ErrClosed):
		return Stop
	case errors.Is(err, ErrKeyGone):
		return NewSession
	case errors.Is(err, ErrBusy), errors.Is(err, context.DeadlineExceeded):
		return Retry
	}
	var c Code
	if errors.As(err, &c) {
		return c.class()
	}
	return Stop
}

// class follows PKCS#11 v2.40 section 5.1 for what a code says about the session and
// the token, and research on SoftHSM where the two differ.
func (c Code) class() Class {
	switch uint(c) {
	case pkcs11.CKR_OK:
		return None
	case pkcs11.CKR_HOST_MEMORY, pkcs11.CKR_DEVICE_MEMORY, pkcs11.CKR_SESSION_COUNT,
		pkcs11.CKR_FUNCTION_FAILED, pkcs11.CKR_CANCEL, pkcs11.CKR_FUNCTION_CANCELED:
		return Retry
	case pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_OPERATION_ACTIVE,
		pkcs11.CKR_OPERATION_NOT_INITIALIZED, pkcs11.CKR_BUFFER_TOO_SMALL, pkcs11.CKR_DEVICE_ERROR,
		pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID,
		pkcs11.CKR_WRAPPING_KEY_HANDLE_INVALID, pkcs11.CKR_UNWRAPPING_KEY_HANDLE_INVALID:
		return NewSession
	case pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, pkcs11.CKR_DEVICE_REMOVED,
		pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_TOKEN_NOT_RECOGNIZED, pkcs11.CKR_USER_NOT_LOGGED_IN,
		pkcs11.CKR_SLOT_ID_INVALID:
		return Reinitialise
	case pkcs11.CKR_SIGNATURE_INVALID, pkcs11.CKR_SIGNATURE_LEN_RANGE,
		pkcs11.CKR_WRAPPED_KEY_INVALID, pkcs11.CKR_WRAPPED_KEY_LEN_RANGE,
		pkcs11.CKR_ENCRYPTED_DATA_INVALID, pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE,
		pkcs11.CKR_DATA_INVALID, pkcs11.CKR_DATA_LEN_RANGE, pkcs11.CKR_PUBLIC_KEY_INVALID:
		return DataFault
	}
	return Stop
}
