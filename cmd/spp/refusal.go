package main

import (
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/provisioning/records"
)

// Codes of what this program refuses, as the exit code 3 stands for all of them. They are stable; where the SPP refuses
// a station for the same reason it uses the same word.
const (
	codeUnknownDevice   = "unknown-device"   // no record of that id
	codeUnknownEntry    = "unknown-entry"    // no such entry in the outbox
	codeUnknownIdentity = "unknown-identity" // neither pool nor records know it
	codeUnlistedChip    = "unlisted-chip"    // no delivery list names the chip
	codeContested       = "contested"        // delivery lists contradict each other over the chip
	codeState           = "state"            // the device, entry or identity is in another state
	codePublication     = "publication"      // an entry has to be published first
	codeSender          = "sender"           // a file is not the one that its sender vouches for
	codeActive          = "active"           // the chip has an identity
)

// refusedError is something that was checked and declined: exit code 3.
type refusedError struct {
	error
	code, next string
}

func refusal(err error, code, next string) error { return &refusedError{err, code, next} }

func (e *refusedError) Unwrap() error   { return e.error }
func (e *refusedError) Refused() string { return e.code }
func (e *refusedError) Next() string    { return e.next }

// declined turns what the records decline into a refusal; next says what to do where the state does not fit. Anything
// else, a database that is away, stays a failure: the same command may succeed later.
func declined(err error, next string) error {
	switch {
	case errors.Is(err, records.ErrNotFound):
		return refusal(err, codeUnknownDevice, nextUnknown)
	case errors.Is(err, records.ErrChipActive):
		return refusal(err, codeActive, next)
	case errors.Is(err, records.ErrConflict), errors.Is(err, records.ErrOutOfUse):
		return refusal(err, codeState, next)
	}
	return err
}

const nextUnknown = "look for a slip in the record id: device show prints it, as does spp device list"

func refuseState(next, format string, args ...any) error {
	return refusal(fmt.Errorf(format, args...), codeState, next)
}
